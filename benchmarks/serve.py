"""Measure the server: the first token of a follow-up turn, and memory over many conversations.

python benchmarks/serve.py
python benchmarks/serve.py model.trwkv --layers 0

The models are the bundled one, and one of random weights with the bundled vocabulary. The first
token of a follow-up turn is compared with what the model alone needs to read the new tokens, those
of the template included, and to come to the same text: the first that is not blank. Both take
turns, and the medians count. The fastest turns are compared too, since other work slows them least.
What the client itself spends is part of the time, and told besides: it makes the JSON, sends it by
Python's http.client, and parses the piece of the answer. The model alone is given tokens, not text.
The memory is that of the server's process, after every tenth of the conversations. Each of them has
two turns.
"""

from __future__ import annotations

import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common, random_model
from tinyrwkv.chat.answer_settings import DEFAULTS, of_sampler
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.file.mapped import open_file
from tinyrwkv.tokenizer import Tokenizer

WORDS = "the robot goes to the kitchen and looks for a red cup on the table ".split()
ANSWER = 16
"""Tokens of an answer."""

PAUSE = 0.2
"""Seconds between two turns, as people make them: the processor's caches forget meanwhile."""


class Client:
    """Asks a server over one connection.

    Parameters
    ----------
    url, name : str
        As the server tells them.

    Attributes
    ----------
    own : float
        Seconds of the last first text that the client itself has spent.
    """

    def __init__(self, url: str, name: str) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(place.hostname), place.port)
        self._name = name
        self.own = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, *texts: str) -> tuple[float, str]:
        """Say something; return the seconds to the first text of the answer, and the answer."""
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": text}
            for place, text in enumerate(texts)
        ]
        body = {"model": self._name, "messages": messages, "stream": True, "max_tokens": ANSWER}
        headers = {"Content-Type": "application/json"}
        begin = time.perf_counter()
        path = "/v1/chat/completions"
        self._connection.request("POST", path, json.dumps({**body, "seed": 1}), headers)
        sent = time.perf_counter()
        response = self._connection.getresponse()
        if response.status != 200:
            raise SystemExit(response.read().decode())
        first = 0.0
        answer = ""
        for line in response:
            come = time.perf_counter()
            if line.startswith(b"data: {"):
                (choice,) = json.loads(line[len(b"data: ") :])["choices"]
                answer += choice["delta"].get("content") or ""
                if answer and not first:
                    now = time.perf_counter()
                    first = now - begin
                    self.own = sent - begin + now - come
        return first or time.perf_counter() - begin, answer


@contextmanager
def serving(path: str, *arguments: str) -> Iterator[tuple[int, Client]]:
    """Start a server; give the number of its process, and a client."""
    command = [sys.executable, "-m", "tinyrwkv", "serve", path, "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, env=common.environment()
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        told = json.loads(line)
        with closing(Client(told["url"], told["model"])) as client:
            yield process.pid, client
    finally:
        process.kill()
        process.communicate()


def random_path(folder: str, layers: int, width: int) -> str:
    """Write a model of random weights with the bundled vocabulary; return its path."""
    path = f"{folder}/v7-{layers}x{width}.trwkv"
    with open_file(tinyrwkv.loading.BUNDLED) as bundled:
        names = [f"tokenizer.{name}" for name in Tokenizer.ARRAYS]
        vocabulary = {name: bundled[name].copy() for name in names}
        config = random_model.sizes("v7", layers, width, bundled.metadata["vocab_size"])
    random_model.write(path, config, others=vocabulary)
    return path


def text(count: int, number: int) -> str:
    """Return so many words, other ones for each number."""
    return f"{number}: " + " ".join(WORDS[(number + i) % len(WORDS)] for i in range(count))


def follow_up(path: str, words: int, repeat: int) -> dict[str, Any]:
    """Measure first tokens of follow-up turns."""
    model = tinyrwkv.load(path)
    turns = template(model.config.get("template") or "chat")
    settings = of_sampler(DEFAULTS | dict(read_profile(path).settings))
    sampler = tinyrwkv.Sampler(**settings | {"seed": 1})  # as the server samples
    served, own, alone, counts, histories = [], [], [], [], []
    with serving(path) as (_, client):
        for number in range(repeat + 1):
            opening = text(10 * words, number)
            _, answer = client.ask(opening)
            question = text(words, number)
            history = turns.prompt(opening) + " " + answer
            ids = [0, *model.tokenizer.encode(history)]
            _, state = model.forward(ids, logits=None)
            time.sleep(PAUSE)
            seconds, _ = client.ask(opening, answer, question)
            new = model.tokenizer.encode(turns.prompt(question, first=False))
            time.sleep(PAUSE)
            begin = time.perf_counter()
            next(p for p in model.generate(new, state=state, sampler=sampler) if p.text.strip())
            if number:  # the first turn reads files in
                alone.append(time.perf_counter() - begin)
                served.append(seconds)
                own.append(client.own)
                counts.append(len(new))
                histories.append(len(ids))
    return {
        "history_tokens": round(statistics.median(histories)),
        "new_tokens": round(statistics.median(counts)),
        "served_ms": round(1e3 * statistics.median(served), 2),
        "client_ms": round(1e3 * statistics.median(own), 2),
        "alone_ms": round(1e3 * statistics.median(alone), 2),
        "ratio": round(statistics.median(served) / statistics.median(alone), 2),
        "ratio_of_best": round(min(served) / min(alone), 2),
    }


def memory(path: str, conversations: int, sessions: str) -> list[dict[str, int]]:
    """Return the memory of a server's process while it has many conversations."""
    steps = []
    with serving(path, "--sessions", sessions) as (pid, client):
        for number in range(conversations + 1):
            if number % max(conversations // 10, 1) == 0:
                steps.append({"conversations": number, **_process(pid)})
            opening = text(8, number)
            _, answer = client.ask(opening)
            client.ask(opening, answer, text(4, number))
    return steps


def _process(pid: int) -> dict[str, int]:
    """Return the resident bytes of a process, and those that no file backs."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            key = "rss_bytes" if name == "VmRSS" else "anon_bytes"
            found[key] = 1024 * int(value.split()[0])
    return found


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=())
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=".trwkv file (default: the bundled model)"
    )
    parser.add_argument(
        "--words", type=int, nargs="+", default=[10, 40], metavar="N", help="default: 10 40"
    )
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="default: 15")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="0: no random weights")
    parser.add_argument("--width", type=int, default=768, metavar="N", help="default: 768")
    parser.add_argument("--conversations", type=int, default=1000, metavar="N")
    parser.add_argument("--sessions", default="16MB", metavar="SIZE", help="default: 16MB")
    options = parser.parse_args(argv)
    path = options.model or tinyrwkv.loading.BUNDLED
    report: dict[str, Any] = {"machine": common.machine(), "follow_up": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = [path]
        if options.layers:
            paths.append(random_path(folder, options.layers, options.width))
        for one in paths:
            for words in options.words:
                measured = follow_up(one, words, options.repeat)
                report["follow_up"].append({"model": pathlib.Path(one).stem, **measured})
    names = ("model", "history_tokens", "new_tokens", "served_ms", "client_ms", "alone_ms")
    ratios = ("ratio", "ratio_of_best")
    rows = [
        [one[name] for name in names] + [str(one[name]) for name in ratios]
        for one in report["follow_up"]
    ]
    head = (
        "model",
        "tokens before",
        "new",
        "served, ms",
        "of it client",
        "alone, ms",
        "ratio",
        "of the best",
    )
    shown = common.table(rows, head)
    if options.conversations:
        report["sessions"] = options.sessions
        report["memory"] = memory(path, options.conversations, options.sessions)
        rows = [
            [one["conversations"], one["rss_bytes"] / 1e6, one["anon_bytes"] / 1e6]
            for one in report["memory"]
        ]
        shown += "\n\n" + common.table(rows, ("conversations", "resident MB", "private MB"))
    common.finish("serve", options, report, shown)


if __name__ == "__main__":
    common.run(main)
