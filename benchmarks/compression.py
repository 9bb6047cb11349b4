"""Measure each technique of compression, alone and with others, and write the table of it.

python benchmarks/compression.py --model rwkv.pth vocab.txt calibrate.txt book.txt --write
python benchmarks/compression.py --model rwkv.pth vocab.txt calibrate.txt book.txt --step speed

A model is given by four files: its checkpoint, its vocabulary, a text to fit to and a text to judge
by. The last is plain text, or documents with answers, which are generated and compared too. The
files that are made stay in --folder, the results in benchmarks/results/compression.json. So the
steps can be done one by one: `make` the files, `judge` them, and `speed`, which needs an idle
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

import tinyrwkv
from benchmarks import common
from converters.compress.options import Options
from converters.compress.pipeline import Pipeline
from converters.compress.presets import PRESETS
from converters.judge.cost import chosen_bytes, pages_per_token, sample_cold
from converters.judge.metrics import Judge, TextLoss, exact_match
from converters.judge.texts import read_text, split_documents, windows
from converters.write.convert import convert
from converters.write.edit import edit

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "compression.md"
STEPS = ("make", "judge", "speed")
WITHOUT_HEAD = (
    8  # texts that are read once more to tell what the channel mixes choose from what the head does
)

EXACT, PREDICTED = "values of neurons that fire", "predicted neurons, 17 %"
INT4, INT4_ALL = "int4", "int4, embedding and head too"
LITE = "lite: int4, 17 % of the neurons, preview"

TECHNIQUES: dict[str, Options] = {
    EXACT: PRESETS["exact"],
    INT4: Options(int4="body"),
    INT4_ALL: Options(int4="all", likely_rows=0),
    "low rank 1/4, plain": Options(low_rank=4),
    "low rank 1/4, whitened": Options(low_rank=4, whiten=True),
    "low rank 1/3, whitened": Options(low_rank=3, whiten=True),
    "low rank by need, 55 %": Options(rank_budget=0.55),
    PREDICTED: Options(sparse_ffn="predict", keep=0.17),
    "head preview, 1,024 rows": Options(head="preview", head_rows=1024),
    "head preview, 4,096 rows": Options(head="preview", head_rows=4096),
    LITE: PRESETS["lite"],
}
COLUMNS = {
    "file_bytes": "file, MB",
    "touched_bytes": "touched, MB",
    "channel_mix_bytes": "of it channel mix",
    "head_bytes": "head",
    "page_bytes": "pages, MB",
    "resident_bytes": "resident, MB",
    "nll": "nll",
    "top1": "top-1, %",
    "greedy": "greedy, %",
    "exact_match": "answers, %",
    "decode_tok_s": "tokens/s",
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("CHECKPOINT", "VOCAB", "CALIBRATE", "TEXT")
    parser.add_argument("--model", nargs=4, action="append", required=True, metavar=parts)
    kept = "keep the files here, and take what is there (default: neither)"
    parser.add_argument("--folder", metavar="F", help=kept)
    parser.add_argument("--step", nargs="+", choices=STEPS, default=STEPS, help="default: all")
    only = "techniques whose names begin so (default: all)"
    parser.add_argument("--only", nargs="+", metavar="NAME", help=only)
    limit = "judge by N windows or documents (default: all)"
    parser.add_argument("--limit", type=int, metavar="N", help=limit)
    tokens = "to sample from a cold start (default: 200)"
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help=tokens)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    write = "write the results and the table of docs/compression.md"
    parser.add_argument("--write", action="store_true", help=write)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = arguments(argv)
    saved = common.RESULTS / "compression.json"
    result: dict[str, Any] = json.loads(saved.read_text()) if saved.exists() else {"models": {}}
    result["machine"] = common.machine()
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(folder, exist_ok=True)
        for model in options.model:
            name = pathlib.Path(model[0]).name
            do_steps(options, name, model, folder, result["models"].setdefault(name, {}))
    if options.write:
        common.save("compression", result)
        PAGE.write_text(written(PAGE.read_text("utf-8"), result), "utf-8")
    print(json.dumps(result, indent=1) if options.json else "\n".join(table(result)))


def do_steps(
    options: argparse.Namespace,
    name: str,
    model: list[str],
    folder: str,
    rows: dict[str, dict[str, Any]],
) -> None:
    """Make, judge and time the files of one model, as far as the options ask for it."""
    checkpoint, vocab, calibrate, text = model
    paths = files(folder, checkpoint)
    dense = paths["int8"]
    if options.only:
        chosen = tuple(options.only)
        paths = {one: path for one, path in paths.items() if one.startswith(chosen)}
    if "make" in options.step:
        make(paths, checkpoint, vocab, calibrate, folder)
    if "judge" in options.step:
        for one, path in paths.items():
            found = judge(path, dense, text, options.limit, options.tokens)
            rows.setdefault(one, {}).update(found)
            print(f"{name}, {one}: {rows[one]}", file=sys.stderr)
    if "speed" in options.step:
        for one, speed in decode(paths).items():
            rows.setdefault(one, {})["decode_tok_s"] = speed


def files(folder: str, checkpoint: str) -> dict[str, str]:
    """Return where the files of a checkpoint are, or will be."""
    stem = pathlib.Path(checkpoint).stem
    return {
        one: os.path.join(folder, f"{stem}-{i}.trwkv")
        for i, one in enumerate(("f32", "int8", *TECHNIQUES))
    }


def make(paths: dict[str, str], checkpoint: str, vocab: str, calibrate: str, folder: str) -> None:
    """Make the files that are not there, all from one calibration."""
    missing = {name: path for name, path in paths.items() if not os.path.exists(path)}
    for name in ("f32", "int8"):
        if name in missing:
            convert(checkpoint, missing.pop(name), name, vocab)
    if not missing:
        return
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        dense = os.path.join(inner, "dense.trwkv")
        convert(checkpoint, dense, "int8", vocab)
        with Pipeline(dense, inner, 0, lambda stage, done, total: None) as pipeline:
            pipeline.calibrate(os.path.basename(calibrate), read_text(calibrate))
            for name, path in missing.items():
                pipeline.reset()
                for stage in pipeline.stages(TECHNIQUES[name]):
                    pipeline.apply(stage, TECHNIQUES[name].max_nll_rise)
                edit(pipeline.model.file, path, {}, pipeline.metadata)
                print(f"{path}: {name}", file=sys.stderr)


def judge(path: str, dense: str, text: str, limit: int | None, tokens: int) -> dict[str, Any]:
    """Return what a file takes, how good it is, and how often it agrees with dense int8."""
    told = read_text(text)
    found: dict[str, Any] = {"file_bytes": os.path.getsize(path)}
    pages, cost = (
        pages_per_token(path),
        sample_cold(path, tokens),
    )  # before it is mapped to be judged
    with contextlib.closing(tinyrwkv.load(path)) as model:
        listed = list(itertools.islice(texts(model, told), limit))
        scorer, score, best = Judge(model), TextLoss(), list[int]()
        for ids in listed:
            score += scorer.loss(ids)
            best += scorer.best
        chosen = chosen_bytes(model) / score.tokens
        if "<|doc|>" in told and all(
            "\nAssistant:" in document for document in split_documents(told)
        ):
            found["exact_match"] = exact_match(model, told, limit=limit).accuracy
    with contextlib.closing(
        tinyrwkv.load(path)
    ) as model:  # without the head, so that only values are chosen
        some = listed[:WITHOUT_HEAD]
        for ids in some:
            model.forward([0, *ids[:-1]], logits=None)
        values = chosen_bytes(model) / sum(map(len, some))
        parts = {part["part"]: part["touched_bytes_per_token"] for part in model.plan()["parts"]}
    np.save(path + ".npy", best)
    if os.path.exists(dense + ".npy") and len(choices := np.load(dense + ".npy")) == len(
        best
    ):  # of as much text
        found["greedy"] = float(np.mean(choices == best))
    return found | {
        "touched_bytes": round(sum(parts.values()) + chosen),
        "chosen_value_bytes": round(values),
        "channel_mix_bytes": round(parts["channel_mix"] + values),
        "head_bytes": round(parts["head"] + chosen - values),
        "tokens": score.tokens,
        "nll": score.nll_per_token,
        "top1": score.top1,
        "page_bytes": None if pages is None else round(pages),
        "resident_bytes": cost.resident,
    }


def texts(model: tinyrwkv.Model, told: str) -> Iterator[list[int]]:
    """Yield the tokens of each document, or of each window of a plain text."""
    if "<|doc|>" not in told:
        yield from windows(model.tokenizer, told.encode("utf-8"))
        return
    for document in split_documents(told):
        yield model.tokenizer.encode(document)


def decode(paths: dict[str, str], rounds: int = 7, tokens: int = 24) -> dict[str, float]:
    """Return the median tokens a second of each file, which take turns, with one thread."""
    with contextlib.ExitStack() as stack:
        models = {
            name: stack.enter_context(contextlib.closing(tinyrwkv.load(path)))
            for name, path in paths.items()
        }
        states = {name: model.forward(0)[1] for name, model in models.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(rounds):
            for name, model in models.items():
                for i in range(turn * tokens, (turn + 1) * tokens):
                    begin = time.perf_counter()
                    _, states[name] = model.forward(
                        i * 7919 % model.config["vocab_size"], states[name]
                    )
                    times[name].append(time.perf_counter() - begin)
        return {name: round(1 / statistics.median(listed), 1) for name, listed in times.items()}


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables in Markdown, a table for each checkpoint."""
    for name, rows in result["models"].items():
        if not rows:
            continue  # its files were only made
        keys = [key for key in COLUMNS if any(key in row for row in rows.values())]
        yield f"\n### {name}\n"
        yield f"| technique | {' | '.join(COLUMNS[key] for key in keys)} |"
        yield "|---" * (len(keys) + 1) + "|"
        first = next(iter(rows.values()))
        for one, row in rows.items():
            cells = (_cell(key, row.get(key), first.get(key)) for key in keys)
            yield f"| {one} | {' | '.join(cells)} |"
        yield from channel_mix(rows)


def channel_mix(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield what is said of the keys and values that a token reads."""
    if (firing := of_values(rows)) is not None:
        every, read = firing
        share = f"{read / 1e6:.2f} of {every / 1e6:.2f} MB, 1 in {every / read:.1f}"
        yield f"\nOf the values, neurons that fire need {share}."
    if (predicted := of_neurons(rows)) is not None:
        every, read = predicted
        share = f"{read / 1e6:.2f} of {every / 1e6:.2f} MB, 1 in {every / read:.1f}"
        yield f"Of keys and values, predicted neurons and their predictors need {share}."


def of_values(rows: dict[str, dict[str, Any]]) -> tuple[int, int] | None:
    """Return the bytes of all values, and of those that a token reads if zeros are skipped."""
    dense, firing = (rows.get(name, {}).get("channel_mix_bytes") for name in ("int8", EXACT))
    if dense is None or firing is None:
        return None
    read = rows[EXACT]["chosen_value_bytes"]
    return dense - firing + read, read


def of_neurons(rows: dict[str, dict[str, Any]]) -> tuple[int, int] | None:
    """Return the bytes of all keys and values, and of what a token reads with predictors."""
    values, predicted = of_values(rows), rows.get(PREDICTED, {}).get("channel_mix_bytes")
    if values is None or predicted is None:
        return None
    every = 2 * values[0]  # keys are as many
    return every, every - rows["int8"]["channel_mix_bytes"] + predicted


def _cell(key: str, value: Any, first: Any) -> str:
    if value is None:
        return "-"
    if key.endswith("_bytes"):
        return f"{value / 1e6:.1f}"
    if key == "nll":
        return f"{value:.4f}" + (
            f" ({value - first:+.4f})" if first is not None and value != first else ""
        )
    return f"{100 * value:.2f}" if key in ("top1", "greedy", "exact_match") else f"{value:.0f}"


def written(text: str, result: dict[str, Any]) -> str:
    """Return the page with the tables of the results between its marks."""
    before, _, rest = text.partition("<!-- tables -->\n")
    _, mark, after = rest.partition("<!-- end -->")
    if not mark:
        raise ValueError(f"{PAGE}: found no <!-- tables --> with an <!-- end -->")
    return before + "<!-- tables -->\n" + "\n".join(table(result)).lstrip() + "\n\n" + mark + after


if __name__ == "__main__":
    common.run(main)
