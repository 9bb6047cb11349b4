"""Measure what the lessons tell of a larger model and write it to docs/lessons/data/.

python docs/lessons/measure.py rwkv5-world-66m.trwkv --calibrate calibrate.txt --judge books.txt

MODEL is a dense int8 file from tinyrwkv-convert. The two texts share no document. ``--only head``
measures one of the parts: head, low_rank, embedding.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import sys
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import head_clusters

import tinyrwkv
from converters.calibrate.collect import collect
from converters.calibrate.documents import choose_documents
from converters.calibrate.probe import Probe
from converters.judge.metrics import nll_of_text
from converters.judge.texts import windows
from converters.techniques import low_rank, preview_head
from tinyrwkv.file import quant
from tinyrwkv.file.writer import Writer

DATA = pathlib.Path(__file__).resolve().parent / "data"
CALIBRATE_TOKENS = 16_384
JUDGED_WINDOWS = 8  # of 512 tokens


class Measurement:
    """A model and its two texts."""

    def __init__(self, model: str, calibrate: str, judge: str) -> None:
        self.model = tinyrwkv.load(model, threads=2)
        self.judged = pathlib.Path(judge).read_bytes()
        text = pathlib.Path(calibrate).read_text("utf-8")
        self.documents = choose_documents(self.model, text, CALIBRATE_TOKENS)
        self.calibration = text.encode()

    def weight(self, name: str) -> np.ndarray:
        """Return a matrix as float32."""
        return quant.dequantize_rows(self.model.file[name], self.model.file[name + ".scale"])

    def head_inputs(self, documents: Sequence[Sequence[int]]) -> np.ndarray:
        """Return what goes into the head after each token, float32, (n, C)."""
        seen: list[np.ndarray] = []
        probe = Probe(self.model, {"head.weight": seen.append})
        for document in documents:
            probe.read(document)
        return np.concatenate(seen).astype(np.float32)

    def judged_documents(self) -> list[list[int]]:
        """Return the windows of the judged text, each with token 0 in front."""
        found = []
        for ids in windows(self.model.tokenizer, self.judged):
            if len(found) == JUDGED_WINDOWS:
                break
            found.append([0, *ids])
        return found


def divergence(true: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Compare logits (n, V) with the true ones.

    Returns the mean KL divergence in nats, and how often the first choices agree.
    """
    total, same = 0.0, 0
    for z, y in zip(true, found, strict=True):
        p, q = (np.asarray(a, np.float64) - a.max() for a in (z, y))
        p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
        total += float((np.exp(p) * (p - q)).sum())
        same += int(z.argmax() == y.argmax())
    return total / len(true), same / len(true)


def measure_head(of: Measurement) -> dict[str, Any]:
    """Compare the hierarchical head with the preview: bytes of a token and divergence."""
    weight = of.weight("head.weight")
    fit, judge = of.head_inputs(of.documents)[:8192], of.head_inputs(of.judged_documents())[:2048]
    true = judge @ weight.T
    V, C = weight.shape
    clusters, previews = [], []
    for p_min, k_max in ((0.8, 20), (0.95, 20), (0.95, 40), (0.985, 60), (0.995, 100)):
        parts, _ = head_clusters.cluster_head(weight, fit, 200, p_min=p_min, k_max=k_max)
        logits, chosen = head_clusters.cluster_logits(parts, judge)
        rows = float((chosen @ np.diff(parts["starts"])).mean())
        kl, same = divergence(true, logits)
        size = rows * (C + 4) + sum(
            a.nbytes for name, a in parts.items() if not name.startswith("rows")
        )
        clusters.append(
            {"p_min": p_min, "k_max": k_max, "rows": rows, "bytes": size, "kl": kl, "same": same}
        )
        print(clusters[-1], file=sys.stderr)
    for rows in (250, 500, 1000, 2000, 4000):
        parts, report = preview_head.fit_preview(weight, fit, rows=rows)
        logits, chosen = preview_head.preview_logits(parts, judge)
        kl, same = divergence(true, logits)
        read, size = float(chosen.sum(axis=1).mean()), report["bytes_per_token"]
        previews.append({"rows": read, "bytes": size, "kl": kl, "same": same})
        print(previews[-1], file=sys.stderr)
    return {
        "vocab": V,
        "width": C,
        "dense_bytes": V * (C + 4),
        "clusters": clusters,
        "previews": previews,
    }


def measure_low_rank(of: Measurement) -> dict[str, Any]:
    """Factor all projections, plain and whitened, and score the model."""
    model, C = of.model, of.model.config["n_embd"]
    parts = ("att.receptance", "att.key", "att.value", "att.gate", "ffn.receptance")
    names = [f"blocks.{i}.{part}.weight" for i in range(model.config["n_layer"]) for part in parts]
    statistics = collect(model, of.documents, moments=names)
    dense = nll_of_text(model, of.judged, limit=JUDGED_WINDOWS)
    found = []
    for k in (3, 4, 6, 8):
        for whiten in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "factored.trwkv")
                with Writer(path, model.config) as writer:
                    for name in model.file.tensors:
                        if name in names:
                            weight = of.weight(name)
                            metric = low_rank.Metric(statistics.moments[name]) if whiten else None
                            spectrum = low_rank.spectrum(weight, metric)
                            rank = low_rank.uniform_rank((C, C), k)
                            factors = low_rank.round_factors(weight, spectrum, rank, metric)
                            for part in ("a", "b"):
                                writer.add(f"{name}.{part}", getattr(factors, part))
                                writer.add(
                                    f"{name}.{part}.scale", getattr(factors, part + "_scale")
                                )
                        elif name.removesuffix(".scale") not in names:
                            writer.add(name, model.file[name])
                small = tinyrwkv.load(path, threads=2)
                score = nll_of_text(small, of.judged, limit=JUDGED_WINDOWS)
                size = small.plan()["touched_bytes_per_token"]
            found.append(
                {
                    "k": k,
                    "whitened": whiten,
                    "nll": score.nll_per_token,
                    "touched_bytes_per_token": size,
                }
            )
            print(found[-1], file=sys.stderr)
    touched = model.plan()["touched_bytes_per_token"]
    return {
        "dense_nll": dense.nll_per_token,
        "dense_touched_bytes_per_token": touched,
        "tokens": dense.tokens,
        "runs": found,
    }


def measure_embedding(of: Measurement) -> dict[str, Any]:
    """Count tokens of the judged text: how often each occurs, and what a cache would hit."""
    ids = [token for window in windows(of.model.tokenizer, of.judged) for token in window]
    counts = sorted(Counter(ids).values(), reverse=True)
    ranks = sorted({int(rank) for rank in np.geomspace(1, len(counts), 60)})
    caches = []
    for rows in (64, 128, 256, 512, 1024, 2048, 4096):
        cache: OrderedDict[int, None] = OrderedDict()
        hits = 0
        for token in ids:
            hits += token in cache
            cache[token] = None
            cache.move_to_end(token)
            if len(cache) > rows:
                cache.popitem(last=False)
        caches.append({"rows": rows, "hit_rate": hits / len(ids)})
    width = of.model.config["n_embd"]
    return {
        "tokens": len(ids),
        "distinct": len(counts),
        "vocab": of.model.config["vocab_size"],
        "row_bytes": width + 4,
        "ranks": ranks,
        "counts": [counts[rank - 1] for rank in ranks],
        "lru": caches,
    }


PARTS: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    "head": measure_head,
    "low_rank": measure_low_rank,
    "embedding": measure_embedding,
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    of = Measurement(args.model, args.calibrate, args.judge)
    for name, measure in PARTS.items():
        if args.only in (None, name):
            words = ["python", "docs/lessons/measure.py", pathlib.Path(args.model).name]
            words += [
                "--calibrate",
                pathlib.Path(args.calibrate).name,
                "--judge",
                pathlib.Path(args.judge).name,
            ]
            found = {"command": shlex.join([*words, "--only", name]), **measure(of)}
            (DATA / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
