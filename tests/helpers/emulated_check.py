"""Run kernel objects one after the other over the same model files, and tell what they compute.

    emulated_check.py make FOLDER                 write the model files, and what NumPy computes
    emulated_check.py run FOLDER --objects DIR    print hashes as JSON, of the objects that run here
                                                  and of Numba's code, or of those after --only
    emulated_check.py compare RESULT.json...      print a table; fail where a hash differs
    emulated_check.py tokens MODEL                read tokens; print a hash and the memory
    emulated_check.py soft NAME DIR OUTPUT        copy an ARM object for the soft-float ABI

Needs NumPy and this checkout, so that any machine can run it. ``.ci/emulated`` runs it on emulated
ones.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from benchmarks.random_model import sizes, write
from tests.helpers.tiny_models import compress, pack_int4, predict, preview, rewrite, sort_head
from tinyrwkv import Sampler, load
from tinyrwkv.engine.backends import has_numba
from tinyrwkv.engine.compiled import Compiled
from tinyrwkv.loading import BUNDLED
from tinyrwkv.model import Model
from tinyrwkv.native.load import RECORD, SYMBOL, choose
from tinyrwkv.native.processor import machine
from tinyrwkv.native.targets import TARGETS, cpu_features, runnable

MODELS = [(arch, "int8", "dense") for arch in ("v4", "v5.0", "v5.2", "v6", "v7")]
MODELS += [(arch, "int8", "compressed") for arch in ("v4", "v5.2", "v6", "v7")]
MODELS += [(arch, "int8", "predicted") for arch in ("v4", "v5.2", "v6", "v7")]
MODELS += [("v6", "int8", "previewed"), ("v7", "int8", "previewed")]
MODELS += [("v5.2", "f32", "dense"), ("v7", "f16", "dense")]
MODELS += [("v7", "int4", "dense"), ("v5.2", "int4", "compressed"), ("v6", "int4", "predicted")]
MODELS += [("v7", "int4", "previewed"), ("v7", "int4", "sorted")]
PROMPT = [(37 * i + 11) % 256 for i in range(23)]  # a chunk of 16 tokens, then 4 + 2 + 1
BOUND = {"int8": 0.05, "int4": 0.05, "f16": 2e-3, "f32": 1e-4}
"""Bounds of the difference from the numpy backend, in standard deviations of the logits.

The machine that makes the models computes with NumPy: an emulated one would need as long for it as
for all kernels. The numpy backend does not round activations to integers, and ARMv7's vectors take
f16 weights below 6.1e-5 for zero.
"""
SHARE = {"previewed": 0.98}
"""Share of the logits that must be that near.

A row at the edge may be read exactly by one backend and previewed by the other.
"""
SMALL = "a subnormal state"
FLUSHES = {"armv7"}
"""Objects whose vectors take numbers below 1.2e-38 for zero, as NEON does on ARMv7.

Such numbers of a state may differ.
"""


def make(folder: pathlib.Path, models: Iterable[tuple[str, str, str]] = MODELS) -> None:
    """Write tiny random models of every version, dense and compressed.

    Beside each stands what the numpy backend computes, as .npy. No vector length divides their
    sizes; rows of int4 have spans of four, two and one groups. One head's values are zero, so that
    its part of the state only decays: nothing hides how small numbers are rounded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arch, dtype, form in models:
        width = 448 if dtype == "int4" else 128
        shape = sizes(arch, layers=2, width=width, vocab=256, head_size=32, ffn=205)
        suffix = "" if form == "dense" else f"-{form}"
        path = folder / f"{arch}-{dtype}{suffix}.trwkv"
        write(str(path), shape, "int8" if dtype == "int4" else dtype, seed=1, low=24)
        rewrite(path, path, FORMS[form])
        if dtype == "int4":
            rewrite(path, path, pack_int4)
        with load(path, backend="numpy") as model:
            np.save(path.with_suffix(".npy"), read(model, chunked=True)[0])


def decay_only(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Take the values of one head away."""
    for name, array in tensors.items():
        if name.endswith("att.value.weight"):
            array[:32] = 0


def low_rank_and_sparse(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Replace projections by factors, and values of the channel mix by rows that can be skipped."""
    decay_only(metadata, tensors)
    compress(metadata, tensors)


def chosen(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Let 1-bit weights choose neurons: some always, some never, some where a score is positive."""
    decay_only(metadata, tensors)
    predict(metadata, tensors)
    for name, array in tensors.items():
        if name.endswith("predictor.threshold"):
            array[::3], array[1::3] = np.inf, 0


def previewed(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Let a few bits of every row of the head tell which rows matter."""
    decay_only(metadata, tensors)
    preview(metadata, tensors)


def in_two(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Let the likely rows of the head stand in a matrix of their own."""
    decay_only(metadata, tensors)
    sort_head(metadata, tensors)


FORMS = {
    "dense": decay_only,
    "compressed": low_rank_and_sparse,
    "predicted": chosen,
    "previewed": previewed,
    "sorted": in_two,
}


def function_of(path: pathlib.Path) -> Any:
    """Load a kernel object whatever the loader would choose."""
    function = getattr(ctypes.CDLL(str(path)), SYMBOL)
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function


def attach(model: Model, name: str, objects: pathlib.Path, threads: int) -> None:
    """Let a model run on the object of that name, or on Numba's."""
    if name == "numba":
        from tinyrwkv.engine.numba_backend import compiled_run as compiled

        function = compiled()
    else:
        function = function_of(objects / TARGETS[name].file)
    model.backend = model.reader.backend = Compiled(name, model.program, function, threads)
    model.reader.workspaces.clear()  # they fit the number of threads


def read(model: Model, chunked: bool, small: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits after every token and the last state.

    With `small`, begin with a state of subnormal numbers.
    """
    state = model.new_state()
    if small:
        state.data[:] = (np.arange(len(state.data)) % 97 + 1).astype(np.float32) * np.float32(1e-40)
    if chunked:
        logits, state = model.forward(PROMPT, state, logits="all")
        return logits, state.data
    rows = []
    for token in PROMPT:
        row, state = model.forward(token, state)
        rows.append(row)
    return np.stack(rows), state.data


def digest(*arrays: np.ndarray) -> str:
    """Return the first half of the SHA-256 of arrays' bytes, little-endian."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return whole.hexdigest()[:32]


def one_hash(found: dict[str, str]) -> str:
    """Return the hash that all ways of reading agree on, or that of each way."""
    hashes = set(found.values())
    return hashes.pop() if len(hashes) == 1 else f"not one result: {found}"


def hashes_of(
    model: Model, name: str, objects: pathlib.Path, expected: np.ndarray
) -> dict[str, str]:
    """Return a model's hashes for one object: token by token and in chunks, with 1 and 2 threads.

    `expected` has the logits of the numpy backend, which must be near.
    """
    label, dtype = pathlib.Path(model.path).stem, model.config["dtype"]
    form = label.rsplit("-", 1)[1]
    starts = {label: False}
    if label.endswith("int8"):
        starts[f"{label}, {SMALL}"] = True
    result = {}
    for title, small in starts.items():
        found = {}
        for threads in (1, 2):
            attach(model, name, objects, threads)
            for way in ("chunks", "tokens"):
                logits, state = read(model, way == "chunks", small)
                distance = np.quantile(np.abs(logits - expected), SHARE.get(form, 1))
                error = float(distance / expected.std())
                if small or error < BOUND[dtype]:
                    seen = digest(logits, state)
                else:
                    seen = f"{error:.2g} from the numpy backend"
                found[f"{way}, {threads} threads"] = seen
        result[title] = one_hash(found)
        if small:
            flushed = np.where(np.abs(state) < np.finfo(np.float32).tiny, 0, state)
            result[f"{title}, flushed"] = digest(logits, flushed)
    return result


def generation_of(model: Model, name: str, objects: pathlib.Path) -> dict[str, Any]:
    """Return the greedy tokens after a prompt, and a hash of the last logits and the state."""
    prompt: Any = PROMPT
    if "tokenizer.bytes" in model.file:
        prompt = "User: please go forward two meters and then turn left\n\nAssistant:"
    attach(model, name, objects, threads=2)
    generation = model.generate(prompt, sampler=Sampler(temperature=0), max_tokens=8)
    tokens = [piece.token for piece in generation if piece.token >= 0]
    return {"tokens": tokens, "hash": digest(generation.logits, generation.result.state.data)}


def run(folder: pathlib.Path, objects: pathlib.Path, names: list[str]) -> dict[str, Any]:
    """Return what every named object computes for every model of a folder.

    The report has what the loader would choose, too.
    """
    best = choose(objects)
    versions = f"numpy {np.__version__}, python {platform.python_version()}"
    needed = {feature for target in TARGETS.values() for feature in target.needs}
    report: dict[str, Any] = {
        "machine": f"{machine()} ({platform.machine()}), {versions}",
        "features": sorted(cpu_features() & needed),
        "chosen": best.name or best.reason,
        "objects": {},
    }
    models = []
    for path in sorted(folder.glob("*.trwkv")):
        models.append((load(path, backend="numpy"), np.load(path.with_suffix(".npy"))))
    long = load(BUNDLED if os.path.exists(BUNDLED) else folder / "v7-int8.trwkv", backend="numpy")
    if not names:
        names = [target.name for target in runnable() if (objects / target.file).exists()]
        names += ["numba"] * has_numba()
    for name in names:
        begin = time.perf_counter()
        hashes = {}
        for model, expected in models:
            hashes |= hashes_of(model, name, objects, expected)
        generation = generation_of(long, name, objects)
        hashes[f"generation of {pathlib.Path(long.path).name}"] = generation["hash"]
        seconds = round(time.perf_counter() - begin, 1)
        report["objects"][name] = {
            "hashes": hashes,
            "tokens": generation["tokens"],
            "seconds": seconds,
        }
    return report


def compare(results: list[pathlib.Path]) -> int:
    """Print what was computed where; return 1 where any hash is another than the first result's.

    The name of a result is "WHERE.json", or "WHERE=OBJECT.json" where the loader must choose that
    object.
    """
    failed = False
    first: dict[str, Any] = {}
    for path in results:
        where, _, expected = path.stem.partition("=")
        report = json.loads(path.read_text())
        print(f"\n{where}: {report['machine']}; features {' '.join(report['features']) or 'none'}")
        wrong = expected and report["chosen"] != expected
        print(f"  chosen: {report['chosen']}{f', expected {expected}: FAILED' if wrong else ''}")
        if not report["objects"]:
            print("  nothing ran: FAILED")
        failed |= bool(wrong) or not report["objects"]
        for name, found in report["objects"].items():
            first = first or found
            bad = wrong_results(name, found, first)
            print(f"  {name:<16} {found['seconds']:5.1f} s  {'FAILED' if bad else 'the same bits'}")
            for key in sorted(bad):
                seen = found["hashes"].get(key, found["tokens"])
                print(f"    {key}: {seen}, expected {first['hashes'].get(key)}")
            failed |= bool(bad)
    print("\ntokens", first.get("tokens"))
    for key, value in sorted(first.get("hashes", {}).items()):
        print(f"{value}  {key}")
    return int(failed)


def wrong_results(name: str, found: dict[str, Any], first: dict[str, Any]) -> set[str]:
    """Return the names of the results of an object that are not those of the first object."""
    hashes, expected = found["hashes"], first["hashes"]
    differ = {key for key in hashes | expected if hashes.get(key) != expected.get(key)}
    # Files of floats need not agree: they are within the bound.
    bad = {key for key in differ if "int8" in key or "generation" in key}
    if name in FLUSHES:
        bad = {key for key in bad if not key.endswith(SMALL)}
    bad |= {key for key, value in hashes.items() if " " in value}  # a message and no hash
    if found["tokens"] != first["tokens"]:
        bad.add("tokens")
    return bad


def tokens(path: pathlib.Path) -> dict[str, Any]:
    """Return what the native backend computes for a few tokens, as a hash, and its memory."""
    begin = time.perf_counter()
    model = load(path, backend="native", threads=2)
    logits, state = model.forward(PROMPT)
    for _ in range(4):
        logits, state = model.forward(int(np.argmax(logits)), state)
    memory = (
        pathlib.Path("/proc/self/status").read_text() + pathlib.Path("/proc/meminfo").read_text()
    )
    keys = ("MemTotal", "VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {
        "hash": digest(logits, state.data),
        "object": choose().name,
        "seconds": round(time.perf_counter() - begin, 1),
        "file_bytes": len(model.file.bytes),
        "resident_bytes": model.resident(),
        **{
            f"{key}_kB": int(line.split()[1])
            for line in memory.splitlines()
            for key in keys
            if line.startswith(key + ":")
        },
    }


def soft(name: str, objects: pathlib.Path, output: pathlib.Path) -> None:
    """Write an ARM object that says that it passes floats in integer registers.

    That is true of the one function that it exports, which takes none. Debian has ARMv6 only with
    that ABI, and its loader refuses objects of the other.
    """
    data = bytearray((objects / f"{name}.so").read_bytes())
    flags = int.from_bytes(data[36:40], "little")
    data[36:40] = (flags & ~0x400 | 0x200).to_bytes(4, "little")
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.so").write_bytes(data)
    record = json.loads((objects / RECORD).read_text())
    record["objects"] = {
        name: {**record["objects"][name], "sha256": hashlib.sha256(data).hexdigest()}
    }
    (output / RECORD).write_text(json.dumps(record))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=pathlib.Path)
    command = commands.add_parser("run")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--objects", type=pathlib.Path, required=True)
    command.add_argument("--only", nargs="+", default=[], metavar="NAME")
    commands.add_parser("compare").add_argument("results", type=pathlib.Path, nargs="+")
    commands.add_parser("tokens").add_argument("model", type=pathlib.Path)
    command = commands.add_parser("soft")
    command.add_argument("name")
    command.add_argument("objects", type=pathlib.Path)
    command.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "make":
        make(args.folder)
    elif args.command == "run":
        print(json.dumps(run(args.folder, args.objects, args.only), indent=1))
    elif args.command == "tokens":
        print(json.dumps(tokens(args.model)))
    elif args.command == "soft":
        soft(args.name, args.objects, args.output)
    else:
        return compare(args.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
