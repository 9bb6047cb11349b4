"""Show what a deep embedding costs: bytes of the file, pages of memory, and time.

python benchmarks/deep_embedding.py
python benchmarks/deep_embedding.py model.trwkv --limit 24000000

A new process reads random tokens one by one: from a cold page cache, from a warm one, and under a
limit. It tells its RSS, and how many pages of the table are in its memory. Then the model decodes
by turns with an RWKV-7 of the same shape, which has no such table. Weights are random by default,
in the shape of the 0.1B model.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common, random_model
from tinyrwkv.file import memory, system
from tinyrwkv.versions.forms import DEEP_TABLE

TURN = 8
"""Tokens that a model decodes in a turn."""

PROCESS = """
import json, mmap, sys
import numpy as np
import tinyrwkv
path, name, limit, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = tinyrwkv.load(path, resident_limit=limit or None)
state, ids = None, np.random.default_rng(1).integers(0, model.config["vocab_size"], tokens)
most = 0
for token in ids:
    logits, state = model.forward(token, state)
    with open("/proc/self/status") as status:
        rss = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS")]
    most = max(most, *rss)
table, pages = model.file.tensors[name], model.file.resident_pages()
first, last = table.offset // mmap.PAGESIZE, (table.offset + table.nbytes) // mmap.PAGESIZE
print(json.dumps({"rss": most, "resident": model.resident(), "page_bytes": mmap.PAGESIZE,
                  "table_pages": None if pages is None else int(pages[first:last].sum())}))
"""


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=(1,))
    common.add_model(parser)
    parser.set_defaults(arch="v7a")
    for name, usual in (("tokens", 200), ("turns", 18), ("limit", 24_000_000)):
        parser.add_argument(
            f"--{name}", type=int, default=usual, metavar="N", help=f"default: {usual}"
        )
    options = parser.parse_args(argv)
    if not system.LINUX:
        raise SystemExit("only Linux tells these figures")
    about = common.machine()
    with common.model_path(options) as path, tempfile.TemporaryDirectory() as folder:
        model = tinyrwkv.load(path)
        if DEEP_TABLE not in model.file:
            raise SystemExit(f"{path} has no deep embedding")
        plan = {part["part"]: part for part in model.plan()["parts"]}["deep_embedding"]
        read = [measure(path, how, options) for how in ("cold", "warm", "limit")]
        plain = os.path.join(folder, "plain.trwkv")
        random_model.write(plain, {**_sizes(model.config), "arch": "v7"}, model.config["dtype"])
        speeds = compare(path, plain, options)
    result = {"machine": about, "tokens": options.tokens, "table": plan, "memory": read}
    result["speed"] = speeds
    rows = [
        (one["how"], one["rss"] / 1e6, one["resident"] / 1e6, one["table_pages"]) for one in read
    ]
    head = (f"after {options.tokens} tokens, MB", "RSS", "of the file", "pages of the table")
    text = [
        f"table: {plan['file_bytes']:,} bytes, of which a token reads "
        f"{plan['touched_bytes_per_token']:,}",
        common.table(rows, head),
    ]
    for one in speeds:
        text.append(
            f"{one['threads']} threads: {one['deep_tok_s']:.1f} tok/s, plain RWKV-7 "
            f"{one['plain_tok_s']:.1f}, by turns {one['ratio']:.3f} times as fast"
        )
    common.finish("deep_embedding", options, result, "\n\n".join(text))


def _sizes(config: Any) -> dict[str, Any]:
    sizes = (config[name] for name in ("n_layer", "n_embd", "vocab_size", "head_size", "n_ffn"))
    return random_model.sizes("v7", *sizes)


def measure(path: str, how: str, options: Any) -> dict[str, Any]:
    """Return what a new process tells of itself after some tokens."""
    if how == "cold":
        memory.drop_from_cache(path)
    else:
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    limit = options.limit if how == "limit" else 0
    settings = (path, DEEP_TABLE, str(limit), str(options.tokens))
    command = [sys.executable, "-c", PROCESS, *settings]
    ended = subprocess.run(command, env=common.environment(), capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr.strip().splitlines()[-1])
    told: dict[str, Any] = json.loads(ended.stdout)
    return {"how": how, **told}


def compare(deep: str, plain: str, options: Any) -> list[dict[str, Any]]:
    """Return the speeds of both models for each number of threads, and the median ratio of turns.

    Every token is another one, so each reads its own pages of the table; the page cache is warm.
    With one thread the time is that of the processor, which other work on the machine changes less.
    """
    found = []
    for threads in options.threads:
        models = [tinyrwkv.load(path, threads=threads) for path in (deep, plain)]
        vocab = models[0].config["vocab_size"]
        states = [model.forward([0])[1] for model in models]
        speeds: list[list[float]] = [[], []]
        clock = time.thread_time if threads == 1 else time.perf_counter
        for turn in range(2 * options.turns):
            ids = [(turn * TURN + i) * 7919 % vocab for i in range(TURN)]
            for which in (0, 1) if turn % 2 else (1, 0):
                begin = clock()
                for token in ids:
                    _, states[which] = models[which].forward(token, states[which])
                speeds[which].append(TURN / (clock() - begin))
        ratio = statistics.median(a / b for a, b in zip(*speeds, strict=True))
        medians = map(statistics.median, speeds)
        names = ("deep_tok_s", "plain_tok_s")
        found.append({"threads": threads, "ratio": ratio, **dict(zip(names, medians, strict=True))})
    return found


if __name__ == "__main__":
    common.run(main)
