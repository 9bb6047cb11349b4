"""Run one engine, and do what its standard input tells: the process behind engine.py.

python benchmarks/engine_process.py ENGINE MODEL THREADS

ENGINE is tinyrwkv, rwkv (the official package, float32) or llama (llama-cpp-python). Each line of
the standard input is a JSON object, and one on the standard output answers it. What engines print
goes to the standard error. This file needs NumPy and the engine, and nothing else of the project:
any interpreter can run it.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

Forward = Callable[[list, bool], np.ndarray]


def tinyrwkv(path: str, threads: int) -> tuple[Forward, str]:
    """Return what reads tokens, anew or after those before, and the version."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    import tinyrwkv as package

    model, state = package.load(path, threads=threads), None

    def forward(tokens: list, anew: bool) -> np.ndarray:
        nonlocal state
        logits, state = model.forward(tokens, None if anew else state)
        assert logits is not None
        return logits

    return forward, f"tinyrwkv {package.__version__} {model.config['dtype']} ({model.backend.name})"


def rwkv(path: str, threads: int) -> tuple[Forward, str]:
    """Return what reads tokens, anew or after those before, and the version."""
    os.environ.update(
        RWKV_V7_ON=str(int("v7" in pathlib.Path(path).name)), RWKV_JIT_ON="1", RWKV_CUDA_ON="0"
    )
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(threads)
    model, state = RWKV(path.removesuffix(".pth"), "cpu fp32"), None  # the package appends .pth

    def forward(tokens: list, anew: bool) -> np.ndarray:
        nonlocal state
        logits, state = model.forward(tokens, None if anew else state)
        return logits.numpy()

    return forward, f"rwkv {version('rwkv')} fp32 (torch {torch.__version__})"


def llama(path: str, threads: int) -> tuple[Forward, str]:
    """Return what reads tokens, anew or after those before, and the version."""
    import llama_cpp as api

    api.llama_backend_init()
    model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = 4096, 512, 512
    settings.n_threads = settings.n_threads_batch = threads
    context = api.llama_init_from_model(model, settings)
    vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def forward(tokens: list, anew: bool) -> np.ndarray:
        if anew:
            api.llama_memory_clear(api.llama_get_memory(context), True)
        ids = (api.llama_token * len(tokens))(*tokens)
        if api.llama_decode(context, api.llama_batch_get_one(ids, len(ids))):
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (vocab,))

    return (
        forward,
        f"llama-cpp-python {version('llama-cpp-python')} {pathlib.Path(path).suffixes[0][1:]}",
    )


def memory() -> dict[str, int]:
    """Return bytes of this process: all, its own, and the most there were."""
    names = {"VmRSS": "rss", "RssAnon": "anon", "VmHWM": "peak"}
    try:
        lines = [
            line.split() for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        ]
    except OSError:
        return {}
    return {names[words[0][:-1]]: int(words[1]) * 1024 for words in lines if words[0][:-1] in names}


def decode(forward: Forward, tokens: list, greedy: bool = False) -> dict[str, Any]:
    """Read tokens one by one, given ones or the likeliest; return times and the likeliest."""
    times: list[float] = []
    best: list[int] = []
    for i, token in enumerate(tokens):
        begin = time.perf_counter()
        logits = forward([best[-1] if greedy and i else token], i == 0)
        times.append(time.perf_counter() - begin)
        best.append(int(logits.argmax()))
    return {"seconds": times, "best": best}


def prefill(forward: Forward, tokens: list, save: str = "") -> dict[str, Any]:
    """Read tokens at once; return the time, and save the logits."""
    begin = time.perf_counter()
    logits = forward(tokens, True)
    seconds = time.perf_counter() - begin
    if save:
        np.save(save, logits)
    return {"seconds": seconds}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    begin = time.perf_counter()
    forward, about = {"tinyrwkv": tinyrwkv, "rwkv": rwkv, "llama": llama}[name](path, threads)
    print(json.dumps({"about": about, "load_s": time.perf_counter() - begin}), file=answers)
    for line in sys.stdin:
        told = json.loads(line)
        what = told.pop("do")
        if what == "memory":
            answer: dict[str, Any] = memory()
        else:
            answer = decode(forward, **told) if what == "decode" else prefill(forward, **told)
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
