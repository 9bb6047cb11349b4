"""Measure the memory of a process with a model, from its start to after a number of tokens.

python benchmarks/memory.py model.trwkv --cold
python benchmarks/memory.py model.trwkv --limit 50000000

A new process tells its own figures at each step: RSS, the part of it that is its own (anon; the
rest is the file and libraries), the pages of the model file mapped into it (resident), and those in
the page cache (cached). At the end comes what a whole chat with the bundled model takes.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common
from tinyrwkv.file import memory, system
from tinyrwkv.loading import BUNDLED

PROCESS = """
import json, sys
path, backend, threads, limit, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
steps = []
def step(name, model=None):
    with open("/proc/self/status") as status:
        lines = [line.split() for line in status]
    size = {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
    told = {"step": name, "rss": size["VmRSS"], "anon": size["RssAnon"], "peak": size["VmHWM"]}
    if model is not None:
        told |= {"resident": model.resident(), "cached": model.cached()}
    steps.append(told)
step("python")
import numpy
step("numpy")
import tinyrwkv
step("tinyrwkv")
model = tinyrwkv.load(path, backend=backend, threads=threads, resident_limit=limit or None)
step("loaded", model)
logits, state = model.forward([0])
step("first token", model)
for i in range(1, tokens):
    logits, state = model.forward(i % model.config["vocab_size"], state)
step(f"{tokens} tokens", model)
print(json.dumps({"backend": model.backend.name, "plan": model.plan(), "steps": steps}))
"""

CHAT = """
import sys
from tinyrwkv.cli import cli
cli.main(["chat"])
with open("/proc/self/status") as status:
    print(*[line.split()[1] for line in status if line.startswith("VmHWM")], file=sys.stderr)
"""
PROMPTS = """please go forward two meters and then turn left
stop
turn right and go back 3 meters
what can you do?
Hello, who are you?
Tell me a story about a robot.
"""


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=(1,))
    common.add_model(parser)
    parser.add_argument(
        "--backend", default="auto", help="native, numba or numpy (default: the best here)"
    )
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="BYTES", help="resident_limit (default: none)"
    )
    parser.add_argument(
        "--cold", action="store_true", help="drop the file from the page cache before each process"
    )
    options = parser.parse_args(argv)
    if not system.LINUX:
        raise SystemExit("only Linux tells these figures")
    about = common.machine()
    with common.model_path(options) as path:
        runs = []
        for threads in options.threads:
            if options.cold:
                memory.drop_from_cache(path)
            settings = (
                path,
                options.backend,
                str(threads),
                str(options.limit),
                str(options.tokens),
            )
            runs.append({"threads": threads, **child(settings)})
        chat = chat_peak() if os.path.exists(BUNDLED) else None
    columns = ("rss", "anon", "peak", "resident", "cached")
    texts = []
    for run in runs:
        rows = [
            (one["step"], *(one.get(key) and one[key] / 1e6 for key in columns))
            for one in run["steps"]
        ]
        head = (f"MB, {run['backend']}, {run['threads']} threads", *columns)
        texts.append(
            common.table(rows, head)
            + f"\nplan: {run['plan']['resident_bytes_max'] / 1e6:.1f} MB at most"
        )
    if chat is not None:
        turns = PROMPTS.count("\n")
        texts.append(f"a chat of {turns} turns with the bundled model: {chat / 1e6:.1f} MB at most")
    result = {"machine": about, "cold": options.cold, "runs": runs, "chat_peak": chat}
    common.finish("memory", options, result, "\n\n".join(texts))


def chat_peak() -> int:
    """Return the most bytes that a process takes for a chat."""
    ended = _process(CHAT, input=PROMPTS)
    return 1024 * int(ended.stderr.split()[-1])


def child(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return what a new process tells of itself."""
    told: dict[str, Any] = json.loads(_process(PROCESS, *settings).stdout)
    return told


def _process(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(
        command, env=common.environment(), capture_output=True, text=True, **options
    )
    if ended.returncode:
        raise SystemExit(ended.stderr.strip().splitlines()[-1])
    return ended


if __name__ == "__main__":
    common.run(main)
