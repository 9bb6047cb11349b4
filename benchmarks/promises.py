"""Check what compression promises of a model: each figure beside its bar.

python benchmarks/promises.py --model a.pth vocab.txt fit.txt book.txt
    --judge novel.txt report.txt --small b.pth words.txt tofit.txt commands.txt

The bars are those of rwkv5-world-66m, fitted to a text like its training text, and judged by books.
The texts of --judge are judged in part, so that authors of several kinds cost little time. Small
models are judged by the answers that they give. The files of single techniques are those of
benchmarks/compression.py. Those whose speed is compared are those of benchmarks/lite.py, taken
from --folder if they are there. The command itself makes the lite files, in a process of its own
that is timed, weighed, and interrupted too. Nothing else should run: some figures are speeds.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import mmap
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common, compression, limit, lite
from benchmarks.compression import EXACT, INT4, INT4_ALL, LITE, PREDICTED
from benchmarks.engine import ROOT
from converters.judge.by_text import read_texts
from converters.judge.compare import differing
from converters.judge.cost import cold
from converters.judge.metrics import nll_of_text
from converters.judge.texts import read_text
from tinyrwkv import Model
from tinyrwkv.file import memory, system

QUARTER, THIRD = "low rank 1/4, whitened", "low rank 1/3, whitened"
FEW_ROWS, MORE_ROWS = "head preview, 1,024 rows", "head preview, 4,096 rows"
NEEDED = (
    *("f32", "int8", EXACT, INT4, INT4_ALL),
    *(QUARTER, THIRD, PREDICTED, FEW_ROWS, MORE_ROWS),
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
SAME = 512  # tokens of which all logits are compared
WITH_HEADER = 3  # pages after the header that the system reads together with it
OF_OTHERS = 40  # windows of each of the other texts
INTERRUPTED = (0.05, 0.4, 0.95)  # shares of the time of a conversion after which it is interrupted


class Check(NamedTuple):
    """A figure beside its bar: at most so much, or at least; one without a bar is only told."""

    about: str
    found: float
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side."""
        return (self.most is None or self.found <= self.most) and (
            self.least is None or self.found >= self.least
        )

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        bars = ((" at most", self.most), ("at least", self.least))
        bar = next((f"{word} {_figure(bar)}" for word, bar in bars if bar is not None), "-")
        return (
            self.about,
            _figure(self.found),
            bar,
            "" if bar == "-" else "yes" if self.holds else "NO",
        )


def _figure(x: float) -> str:
    return f"{x:,}" if isinstance(x, int) else f"{x:.4g}" if abs(x) > 1 else f"{x:.4f}"


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__)
    parts = ("CHECKPOINT", "VOCAB", "FIT", "TEXT")
    parser.add_argument(
        "--model", nargs=4, required=True, metavar=parts, help="to be judged by a plain text"
    )
    parser.add_argument(
        "--judge",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"other texts for int4 and lite; {OF_OTHERS} windows of each count",
    )
    parser.add_argument(
        "--small", nargs=4, action="append", default=[], metavar=parts, help="one that answers"
    )
    parser.add_argument(
        "--folder", metavar="F", help="keep files here, and take what is there (default: neither)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="judge --model by N windows of its text (default: all)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=500,
        metavar="N",
        help="to sample under a limit (default: 500)",
    )
    for name, size in (("layers", 12), ("width", 768), ("vocab", 65536)):
        text = f"of the model whose speed is compared (default: {size})"
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N", help=text)
    options = parser.parse_args(argv)
    others = read_texts(options.judge, options.model[2], read_text(options.model[2]))
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(folder, exist_ok=True)
        about = common.machine(options.threads)
        shape = (options.layers, options.width, options.vocab)
        parts = [
            of_speed(shape, options.threads, folder),
            of_model(*options.model, folder, options.limit, options.tokens, others),
        ]
        checks = []
        for check in itertools.chain(
            *parts, *(of_small(*model, folder) for model in options.small)
        ):
            print(*check.row, sep=": ", file=sys.stderr, flush=True)  # it is long until the table
            checks.append(check)
    rows = [check.row for check in checks]
    result = {
        "machine": about,
        "checks": [check._asdict() | {"holds": check.holds} for check in checks],
    }
    common.finish(
        "promises", options, result, common.table(rows, ("promise", "measured", "bar", "holds"))
    )


def of_speed(shape: tuple[int, int, int], threads: list[int], folder: str) -> Iterator[Check]:
    """Yield how much faster a lite model decodes than the same weights in int8, dense and lite."""
    ratios = lite.compare(shape, threads, folder=folder)["ratio"]
    for other, name, least in (("dense", "dense int8", 2), ("lite_int8", "lite in int8", 1.15)):
        for n, ratio in ratios[other].items():
            yield Check(
                f"lite decodes so many times as fast as {name}, {n} threads", ratio, least=least
            )


def of_model(
    checkpoint: str,
    vocab: str,
    fit: str,
    text: str,
    folder: str,
    few: int | None,
    tokens: int,
    others: dict[str, str],
) -> Iterator[Check]:
    """Yield everything about a model that is judged by plain texts."""
    paths = compression.files(folder, checkpoint)
    compression.make({name: paths[name] for name in NEEDED}, checkpoint, vocab, fit, folder)
    convert = (checkpoint, "--vocab", vocab, "--preset")
    made = Made(os.path.join(folder, "lite.trwkv"), *convert, "lite", "--calibrate", fit)
    own = Made(os.path.join(folder, "own.trwkv"), *convert, "lite")
    paths |= {LITE: made.path, "own": own.path}
    rows = {
        one: compression.judge(paths[one], paths["int8"], text, few, 200)
        for one in (*NEEDED, LITE, "own")
    }
    yield from of_exact(paths, rows, text)
    yield from of_lite(rows, made)
    yield from of_int4(rows)
    yield from of_others(paths, rows, others, few)
    yield from of_low_rank(rows, checkpoint, folder)
    yield from of_predictor(paths, rows, text)
    yield from of_head(rows)
    yield from of_limit(paths[LITE], tokens)
    yield from of_conversion(made)


def of_exact(paths: dict[str, str], rows: dict[str, Any], text: str) -> Iterator[Check]:
    """Yield what `--preset exact` promises."""
    with opened(paths["int8"]) as dense, opened(paths[EXACT]) as model:
        ids = dense.tokenizer.encode(read_text(text)[: 8 * SAME])[:SAME]
        logits = (np.asarray(one.forward(ids, logits="all")[0]) for one in (dense, model))
        yield Check(f"exact: logits that differ in {len(ids)} tokens", differing(*logits), most=0)
    every, read = compression.of_values(rows) or (0, 1)
    yield Check("exact: bytes of values, so many times fewer", every / read, least=5)
    others = pages_of_others(paths[EXACT], ids)
    if others is not None:
        yield Check(
            "exact: pages of the embedding in memory that no token of the text needs",
            others,
            most=WITH_HEADER,
        )
    speed = compression.decode({name: paths[name] for name in ("int8", EXACT)}, rounds=25)
    yield Check(
        "exact: decodes so many times as fast as dense int8, in pairs",
        speed[EXACT] / speed["int8"],
        least=1,
    )
    yield from resident("exact", rows[EXACT])


def of_lite(rows: dict[str, Any], made: Made) -> Iterator[Check]:
    """Yield what `--preset lite` promises."""
    row, dense = rows[LITE], rows["f32"]
    delta = row["nll"] - dense["nll"]
    yield Check("lite: file, MB", row["file_bytes"] / 1e6, most=64)
    yield Check("lite: weights that a token reads, MB", row["touched_bytes"] / 1e6, most=8.8)
    if row["page_bytes"] is not None:
        yield Check("lite: the same in pages of 4 KB, MB", row["page_bytes"] / 1e6)
    yield from resident("lite", row, most=26)
    yield Check("lite: nll above f32", delta, most=0.03)
    yield Check("lite: points of top-1 below f32", 100 * (dense["top1"] - row["top1"]), most=0.5)
    steps = [step["report"] for step in made.report["compression"] if "nll" in step["report"]]
    held = steps[-1]["nll"] - steps[0]["nll"]
    yield Check(
        "lite: nll above dense int8 on the part of the text to fit to that nothing was fitted to",
        held,
    )
    yield Check(
        "lite, fitted to what it writes itself: nll above f32", rows["own"]["nll"] - dense["nll"]
    )


def resident(name: str, row: dict[str, Any], most: float | None = None) -> Iterator[Check]:
    """Yield what is in memory after 200 tokens, where the system tells it."""
    if row["resident_bytes"] is not None:
        yield Check(
            f"{name}: in memory after 200 tokens from a cold start, MB",
            row["resident_bytes"] / 1e6,
            most=most,
        )


def of_int4(rows: dict[str, Any]) -> Iterator[Check]:
    """Yield what int4 alone promises."""
    for name, most in ((INT4, 0.015), (INT4_ALL, 0.03)):
        yield Check(f"{name}: nll above f32", rows[name]["nll"] - rows["f32"]["nll"], most=most)
    size = rows[INT4_ALL]["file_bytes"] / 1e6
    yield Check(f"{INT4_ALL}: file, MB", size, most=40)


def of_others(
    paths: dict[str, str], rows: dict[str, Any], texts: dict[str, str], few: int | None
) -> Iterator[Check]:
    """Yield what int4 and lite lose on other texts, and what lite loses on the mean of all."""
    limit = min(OF_OTHERS, few or OF_OTHERS)
    of_lite = [rows[LITE]["nll"] - rows["f32"]["nll"]]
    for title, text in texts.items():
        nll = {}
        for name in ("f32", INT4, INT4_ALL, LITE):
            with opened(paths[name]) as model:
                nll[name] = nll_of_text(model, text, limit=limit).nll_per_token
        of_lite.append(nll[LITE] - nll["f32"])
        for name, most in ((INT4, 0.015), (INT4_ALL, 0.03), (LITE, 0.03)):
            about = f"{name}: nll above f32 on {title}"
            yield Check(about, nll[name] - nll["f32"], most=most)
    if texts:
        about = f"{LITE}: nll above f32, mean of all {len(of_lite)} texts"
        yield Check(about, statistics.mean(of_lite), most=0.02)


def of_low_rank(rows: dict[str, Any], checkpoint: str, folder: str) -> Iterator[Check]:
    """Yield what low rank alone promises."""
    for k, name, most in ((4, QUARTER, 0.052), (3, THIRD, 0.033)):
        yield Check(
            f"whitened low rank, k={k}: nll above f32",
            rows[name]["nll"] - rows["f32"]["nll"],
            most=most,
        )
    command = [
        sys.executable,
        "-m",
        "converters",
        checkpoint,
        os.path.join(folder, "refused.trwkv"),
        "--low-rank",
        "2",
    ]
    refused = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    yield Check(
        "low rank that saves nothing is refused (1: yes)", int(refused.returncode == 1), least=1
    )


def of_predictor(paths: dict[str, str], rows: dict[str, Any], text: str) -> Iterator[Check]:
    """Yield what the predictor alone promises."""
    every, read = compression.of_neurons(rows) or (0, 1)
    yield Check(
        "predictor: bytes of keys and values, it included, so many times fewer",
        every / read,
        least=4.3,
    )
    yield Check("predictor: nll above f32", rows[PREDICTED]["nll"] - rows["f32"]["nll"], most=0.011)
    with opened(paths[PREDICTED]) as model:
        ids = model.tokenizer.encode(read_text(text)[: 8 * SAME])[:SAME]
        together, state = np.asarray(model.forward(ids, logits="all")[0]), None
        count = 0
        for i, token in enumerate(ids):
            logits, state = model.forward(token, state)
            count += differing(together[i], np.asarray(logits))
        yield Check(
            "predictor: logits that differ between a chunk and token by token", count, most=0
        )


def of_head(rows: dict[str, Any]) -> Iterator[Check]:
    """Yield what the preview of the head promises, at two settings."""
    for name, least, most in ((FEW_ROWS, 8, 0.06), (MORE_ROWS, 4.5, 0.03)):
        fewer = rows["int8"]["head_bytes"] / rows[name]["head_bytes"]
        yield Check(f"{name}: bytes, so many times fewer", fewer, least=least)
        yield Check(f"{name}: nll above f32", rows[name]["nll"] - rows["f32"]["nll"], most=most)
    yield Check(
        f"{FEW_ROWS}: first choices that stay, %", 100 * rows[FEW_ROWS]["greedy"], least=99.5
    )


def of_limit(path: str, tokens: int) -> Iterator[Check]:
    """Yield what a limit of 12 MB promises, on a warm page cache."""
    if not system.LINUX:
        return
    memory.drop_from_cache(path)  # which may hold it in pieces as some other process needed them
    pathlib.Path(path).read_bytes()
    with opened(path) as free, opened(path, resident_limit=12_000_000) as limited:
        found = limit.compare(free, limited, tokens)
    yield Check(
        f"limit of 12 MB: most in memory within {tokens} tokens, MB",
        found["peak_bytes"] / 1e6,
        most=13,
    )
    yield Check("limit of 12 MB: the text is the same (1: yes)", int(found["same"]), least=1)
    yield Check("limit of 12 MB: share of the speed without", found["ratio"], least=0.5)


def of_conversion(made: Made) -> Iterator[Check]:
    """Yield what the conversion takes, and what is left of one that is interrupted."""
    yield Check("conversion to lite, minutes", made.seconds / 60, most=10)
    yield Check("conversion to lite: memory at its peak, GB", made.peak / 1e9, most=1.5)
    for share in INTERRUPTED:
        left = made.interrupted(share * made.seconds)
        yield Check(
            f"conversion interrupted after {share:.0%} of its time: files left", left, most=0
        )


def of_small(checkpoint: str, vocab: str, fit: str, text: str, folder: str) -> Iterator[Check]:
    """Yield what `--preset lite` promises of a model that answers commands."""
    name, paths = pathlib.Path(checkpoint).stem, compression.files(folder, checkpoint)
    compression.make(
        {one: paths[one] for one in ("f32", "int8", LITE)}, checkpoint, vocab, fit, folder
    )
    dense, row = (
        compression.judge(paths[one], paths["int8"], text, None, 200) for one in ("f32", LITE)
    )
    lost = 100 * (dense["exact_match"] - row["exact_match"])
    yield Check(f"{name} lite: points of right answers below f32", lost, most=1.5)
    yield Check(f"{name} lite: right answers, %", 100 * row["exact_match"])
    yield Check(f"{name} lite: weights that a token reads, MB", row["touched_bytes"] / 1e6)
    yield Check(f"{name} f32: weights that a token reads, MB", dense["touched_bytes"] / 1e6)
    yield Check(f"{name} lite: file, MB", row["file_bytes"] / 1e6)


class Made:
    """A file made by the command in a process of its own.

    Attributes
    ----------
    seconds, peak : float, int
        What that took: time, bytes of memory.
    report : dict
        What the command printed.
    """

    def __init__(self, path: str, checkpoint: str, *options: str) -> None:
        self.path = path
        self.command = (sys.executable, "-m", "converters", checkpoint, path, *options, "--json")
        begin = time.monotonic()
        process = self._start(self.command, subprocess.PIPE)
        with process.stdout or io.StringIO() as stream:
            out = stream.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(self.command)} ended with {process.returncode}")
        self.seconds, self.peak = time.monotonic() - begin, usage.ru_maxrss * 1024
        self.report: dict[str, Any] = json.loads(out)

    def interrupted(self, seconds: float) -> int:
        """Return how many files an interrupted run of the command leaves behind."""
        while True:
            with tempfile.TemporaryDirectory() as folder:
                command = [word.replace(self.path, f"{folder}/a.trwkv") for word in self.command]
                process = self._start(command, subprocess.DEVNULL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                process.send_signal(signal.SIGINT)
                process.wait()
                left = os.listdir(folder)
                if left != ["a.trwkv"]:
                    return len(left)
                with opened(f"{folder}/a.trwkv", verify=True):
                    seconds *= 0.8  # it was done before, and is whole

    @staticmethod
    def _start(command: Any, out: int) -> subprocess.Popen[str]:
        # What runs in the background of a shell is deaf to Ctrl-C, and so would be what it starts.
        hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=out, text=True, preexec_fn=hears)


def opened(path: str, **options: Any) -> contextlib.closing[Model]:
    """Load a model that is closed in the end."""
    return contextlib.closing(tinyrwkv.load(path, **options))


def pages_of_others(path: str, ids: list[int]) -> int | None:
    """Return how many pages of the embedding come into memory that hold no row of a text.

    None where the system does not tell.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        cold(shutil.copy(path, folder)) as model,
    ):  # nobody else maps a copy
        tensor, page = model.file.tensors["emb.weight"], mmap.PAGESIZE
        model.forward(ids, logits=None)
        present = model.file.resident_pages()
    if present is None:
        return None
    row = tensor.nbytes // tensor.shape[0]
    for token in {0, *ids}:
        first = tensor.offset + token * row
        present[first // page : (first + row - 1) // page + 1] = False
    whole = slice(
        -(-tensor.offset // page), (tensor.offset + tensor.nbytes) // page
    )  # not those shared with others
    return int(present[whole].sum())


if __name__ == "__main__":
    common.run(main)
