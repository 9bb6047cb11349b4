"""Fuzzers of what reads .trwkv files: loading, states, conversions, and the compiled program."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import zlib
from collections.abc import Iterator

import numpy as np

import tinyrwkv
from converters.write.convert import convert
from tests.helpers.checkpoint_files import write
from tinyrwkv.chat import session
from tinyrwkv.engine.backends import has_native
from tinyrwkv.errors import TinyRWKVError
from tinyrwkv.file import int4
from tinyrwkv.state_file import DTYPES
from tinyrwkv.versions.state_shape import NO_EXPONENT

from . import model_files
from .fuzzer import Fuzzer, Random
from .model_files import Parts

TEXT = "abé User:\0\n".encode()


def fresh(folder: str, data: bytes, name: str = "input") -> str:
    """Write an input to a new file: the one before may still be mapped."""
    path = os.path.join(folder, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return write(path, data)


def _make_model(rng: Random) -> bytes:
    return model_files.changed(rng, model_files.any_model(rng))


def _load(data: bytes, folder: str) -> None:
    path = fresh(folder, data)
    with tinyrwkv.load(path, backend="numpy", verify=zlib.crc32(data) % 2 == 0) as model:
        model.plan()
        if "tokenizer.bytes" in model.file:
            tokenizer = model.tokenizer
            assert tokenizer.decode_bytes(tokenizer.encode(TEXT)) == TEXT


@functools.lru_cache(None)
def _talker() -> tuple[tinyrwkv.Model, list[Parts]]:
    """Return a model, and a conversation with it in parts, once for each type of states."""
    folder = tempfile.mkdtemp()
    path = write(os.path.join(folder, "model"), model_files.model("v7", "int8", "dense").build())
    model = tinyrwkv.load(path, backend="numpy")
    _, state = model.forward([1, 2])
    said = [session.Said("turn left", "turn(90)", True), session.Said("hi", "hello")]
    parts = []
    for dtype in DTYPES:
        session.save(os.path.join(folder, "state"), state, said, dtype)
        metadata, tensors = model_files.read_tensors(os.path.join(folder, "state"))
        parts.append(Parts(metadata, [*tensors.items()]))
    return model, parts


def _make_state(rng: Random) -> bytes:
    _, parts = _talker()
    return model_files.changed(rng, rng.choice(parts))


def _load_state(data: bytes, folder: str) -> None:
    model, _ = _talker()
    path = fresh(folder, data)
    state, said = session.load(path, model)
    model.forward(1, state)
    assert all(isinstance(one.answer, str) for one in said)


def _convert(data: bytes, folder: str) -> None:
    convert_and_run(fresh(folder, data), folder, ("int8", "f16", "f32")[zlib.crc32(data) % 3])


def convert_and_run(path: str, folder: str, dtype: str) -> None:
    """Convert a file; if that succeeds, the result must load and read a token."""
    output = os.path.join(folder, "output")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(output)
    try:
        convert(path, output, dtype=dtype)
    except TinyRWKVError:
        assert not os.path.exists(output)
        raise
    try:
        with tinyrwkv.load(output, verify=True) as model:
            model.forward(0)
            if "tokenizer.bytes" in model.file:
                model.tokenizer.encode(TEXT)
    except TinyRWKVError as error:
        raise AssertionError(f"what was converted cannot be used: {error}") from error


VALUES: tuple[model_files.Change, ...] = (
    *(model_files.a_number,) * 8,
    *(model_files.names_and_order, model_files.a_shape, model_files.a_key),
)


def _make_program(rng: Random) -> bytes:
    return model_files.changed(rng, model_files.any_model(rng), VALUES)


def _run_program(data: bytes, folder: str) -> None:
    """Read a few tokens with compiled kernels and with NumPy; both must agree."""
    path = fresh(folder, data)
    flags = zlib.crc32(data)
    with tinyrwkv.load(path, backend="numpy") as model:
        count = (1, 2, 3, 18)[flags % 4]  # 16 are read at once
        ids = [(flags >> i) % model.config["vocab_size"] for i in range(count)]
        slow, slow_state = model.forward(ids, logits="all")
        is_usual = has_usual_numbers(model)
        chooses = model.has_preview  # rows whose score is on the edge: rounding decides on them
    if not has_native():
        return
    with tinyrwkv.load(path, backend="native", threads=1 + flags // 4 % 2) as model:
        fast, fast_state = model.forward(ids, logits="all")
        check_chunks(model, ids, fast)
    if is_usual:
        check_alike(fast_state.data, slow_state.data, "state")
        if not chooses:
            check_alike(fast, slow, "logits")


def check_chunks(model: tinyrwkv.Model, ids: list[int], logits: np.ndarray) -> None:
    """Read tokens one by one; raise an AssertionError if a bit differs from those read at once."""
    state = None
    for token, expected in zip(ids, logits, strict=True):
        found, state = model.forward(token, state)
        # Which of several NaN comes out is left to the processor.
        assert np.array_equal(found, expected, equal_nan=True), "a chunk gives other logits"


USUAL = 1e4
"""Larger numbers cancel in any order of adding, and overflow in one order and not in another."""


def has_usual_numbers(model: tinyrwkv.Model) -> bool:
    """Tell whether the weights are numbers of a usual size, so that backends must agree."""
    floats = (name for name, one in model.file.tensors.items() if one.dtype in ("f32", "f16"))
    is_threshold = ("threshold", "mlp_threshold")  # it may be infinite
    if not all(bool((scales < USUAL).all()) for scales in scales_of_int4(model)):
        return False
    return all(
        bool((np.abs(model.file[name]) < USUAL).all())
        for name in floats
        if not name.endswith(is_threshold)
    )


def scales_of_int4(model: tinyrwkv.Model) -> Iterator[np.ndarray]:
    """Yield the scales of matrices in int4; those of bundles, whose rows lie in pages, as NaN."""
    for name, tensor in model.file.tensors.items():
        if tensor.dtype == "u8" and name.endswith(".bundles"):
            yield np.array([np.nan])
        elif tensor.dtype == "u8" and name.endswith((".weight", ".a", ".b", ".rows")):
            yield np.abs(int4.unpack(model.file[name])[1])


BOUND = 2e-2
"""The largest difference, as a share of the largest number: int8 rounds what is multiplied.

The largest of 50,000 programs was 0.0065.
"""


def check_alike(fast: np.ndarray, slow: np.ndarray, what: str) -> None:
    """Raise an AssertionError if two results differ by more than rounding explains."""
    both = np.stack([fast, slow]).astype(np.float64)
    both[both == NO_EXPONENT] = 0
    if not np.isfinite(both).all():
        return  # usual weights may still overflow on the way, and then in one order of adding only
    scale = max(1.0, float(np.abs(both).max()))
    difference = float(np.abs(both[0] - both[1]).max()) / scale
    assert difference < BOUND, f"{what} of native and numpy differ by {difference}"


FUZZERS = {
    "trwkv": Fuzzer(_make_model, _load),
    "state": Fuzzer(_make_state, _load_state),
    "convert": Fuzzer(_make_model, _convert),
    "program": Fuzzer(_make_program, _run_program),
}
