"""Read rwkv.cpp .bin files: six numbers, then tensors one after another to the end of the file."""

from __future__ import annotations

import struct

from tinyrwkv.errors import FormatError, UnsupportedError, show

from . import ggml
from .source import FETCH, InputFile, Source, SourceTensor, check_count

MAGIC = b"fmgg"  # 0x67676d66, little-endian

_HEADER = struct.Struct("<6i")  # magic, version, vocabulary, width, layers, type
_TENSOR = struct.Struct("<3i")  # dimensions, length of the name, type
_KINDS = {
    0: ggml.F32,
    1: ggml.F16,
    2: ggml.Q4_0,
    3: ggml.Q4_1,
    7: ggml.Q5_0,
    8: ggml.Q5_1,
    9: ggml.Q8_0,
}
_REFUSED = {4: "Q4_1_O", 5: "Q4_2", 6: "Q4_3"}
_READABLE = "FP32, FP16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0"
_VERSIONS = (100, 101)
_FIX = f"convert a file that has only {_READABLE}, or the original .pth"


def read_ggmf(file: InputFile) -> Source:
    """Open an rwkv.cpp .bin file; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile

    Returns
    -------
    Source

    Raises
    ------
    FormatError
        The file is cut or damaged.
    UnsupportedError
        The file's version or the type of a tensor can't be read.
    """
    header = file.read(0, _HEADER.size, "header").tobytes()
    _, version, n_vocab, n_embed, n_layer, _ = _HEADER.unpack(header)
    if version not in _VERSIONS:
        found = f"version {version}"
        sentence = f"{file.path} is an rwkv.cpp file of {found}; only 100 and 101 can be read"
        raise UnsupportedError(file.path, "header", found, "100 or 101", _FIX, sentence)
    tensors: dict[str, SourceTensor] = {}
    at = _HEADER.size
    while at < file.size:
        name, tensor, at = _tensor(file, at, version)
        if name in tensors:
            raise ggml.same_name(file, name)
        tensors[name] = tensor
        check_count(file.path, len(tensors))
    _check_sizes(file, tensors, (n_vocab, n_embed), n_layer)
    return Source(file.path, [file], "ggmf", tensors)


def _check_sizes(
    file: InputFile, tensors: dict[str, SourceTensor], shape: tuple[int, int], n_layer: int
) -> None:
    """Compare the sizes in the header with the tensors: the format offers no other check."""
    emb = tensors.get("emb.weight")
    found = "no tensor" if emb is None else emb.shape
    if found != shape:
        what, expected = "tensor 'emb.weight'", f"shape {shape} of the header"
        if emb is None:
            sentence = f"{file.path} has no {what}"
        else:
            sentence = f"{file.path}: {what} has shape {found}, but the header says {shape}"
        raise FormatError(file.path, what, found, expected, FETCH, sentence)
    layers = sum(name.endswith(".ln1.weight") for name in tensors)
    if layers != n_layer:
        found, expected = f"{n_layer} layers", f"{layers}, those of the tensors"
        sentence = f"{file.path}: the header says {found}, but the tensors have {layers}"
        raise FormatError(file.path, "header", found, expected, FETCH, sentence)


def _tensor(file: InputFile, at: int, version: int) -> tuple[str, SourceTensor, int]:
    """Return the tensor whose header begins at byte `at`, and where the next one begins."""
    what = f"tensor at byte {at}"
    n_dims, name_bytes, number = _TENSOR.unpack(file.read(at, _TENSOR.size, what).tobytes())
    at += _TENSOR.size
    if not 1 <= n_dims <= 4 or not 1 <= name_bytes <= 200:
        found = f"{n_dims} dimensions and a name of {name_bytes} bytes"
        sentence = f"{file.path}: the {what} would have {found}"
        raise FormatError(file.path, what, found, "1 to 4, and 1 to 200", FETCH, sentence)
    # Sizes are stored fastest first.
    shape = struct.unpack(f"<{n_dims}i", file.read(at, 4 * n_dims, what).tobytes())[::-1]
    at += 4 * n_dims
    name = file.read(at, name_bytes, what).tobytes().decode("utf-8", "replace")
    at += name_bytes
    what = f"tensor {show(name)}"
    if min(shape) < 1:
        sentence = f"{file.path}: {what} has shape {shape}, but sizes are above 0"
        raise FormatError(file.path, what, f"shape {shape}", "sizes above 0", FETCH, sentence)
    if number not in _KINDS:
        refused = str(_REFUSED.get(number, number))
        raise ggml.unreadable(file, name, refused, _READABLE, _FIX)
    kind = _KINDS[number]
    if version == 100 and kind.numbers > 1:
        found = f"{kind.name} of file version 100"
        sentence = f"{file.path}: {what} has type {found}; only that of version 101 can be read"
        raise UnsupportedError(file.path, what, found, "of version 101", _FIX, sentence)
    tensor = ggml.tensor(file, name, kind, shape, at)
    return name, tensor, at + ggml.size_of(file, name, kind, shape)
