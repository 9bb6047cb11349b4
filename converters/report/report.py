"""The page that shows what compression did to a model, and the same numbers as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from typing import Any

from tinyrwkv.errors import FormatError
from tinyrwkv.units import show_size

from . import svg

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d7dce5; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --soft: #9aa4b5; --line: #3a4250; --paper: #14181f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } p, figcaption { color: var(--soft); }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); } .line { fill: none; stroke-width: 1.6; }
.mark { fill: var(--ink); } .row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
.c0 { fill: #3b76c4; } .c1 { fill: #d9822b; } .c2 { fill: #3f9b6b; }
.c3 { fill: #9264b8; } .c4 { fill: #c24d52; } .c5 { fill: #7a8796; }
.s0 { stroke: #3b76c4; } .s1 { stroke: #d9822b; } .s2 { stroke: #3f9b6b; }
.s3 { stroke: #9264b8; } .s4 { stroke: #c24d52; } .s5 { stroke: #7a8796; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child { text-align: left; }
@media (max-width: 500px) { svg text { font-size: 15px; } }
"""


def write(path: str, report: Mapping[str, Any]) -> str:
    """Write the page, and the numbers beside it under the same name with .json.

    Parameters
    ----------
    path : str
    report : mapping
        As `compress` returns it.

    Returns
    -------
    str
        The path of the JSON.

    Raises
    ------
    FormatError
        A file can't be written.
    """
    beside = os.path.splitext(path)[0] + ".json"
    for name, text in ((beside, json.dumps(report, indent=1) + "\n"), (path, page(report))):
        try:
            with open(name, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            found = error.strerror or str(error)
            raise FormatError(
                name, "report", found, "a file to write", "check the path and its folder"
            ) from None
    return beside


def page(report: Mapping[str, Any]) -> str:
    """Return one page of HTML that needs nothing else."""
    title = f"{os.path.basename(report['output'])}: what compression did"
    sections = [_summary(report), _notes(report), _bytes(report), _losses(report)]
    for step in report["compression"]:
        draw = {"low rank": _low_rank, "sparse ffn": _sparse, "head": _head}.get(step["technique"])
        if draw is not None:
            sections.append(draw(step, report["figures"].get(step["technique"], {})))
    if "search" in report:
        sections.append(_search(report["search"]))
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    shape = f"RWKV {report['arch']}, {report['n_layer']} layers of {report['n_embd']}, vocabulary {report['vocab_size']}"
    calibration = next(step for step in report["compression"] if step["technique"] == "calibration")
    text, counts = calibration["params"]["text"], calibration["report"]
    read = [
        show_size(round(sum(found["touched"].values())))
        for found in report["figures"]["bytes"].values()
    ]
    lost = sum(step["report"].get("nll_delta", 0.0) for step in report["compression"])
    return (
        f"<p>{escape(shape)}, from {escape(os.path.basename(report['input']))}. "
        f"Fitted to {counts['fit_tokens']:,} tokens of {escape(text)}; "
        f"every loss below was measured on {counts['held_tokens']:,} tokens held back from it.</p>\n"
        f"<p><strong>Each token reads {read[-1]} of weights, {read[0]} before (dense, int8). "
        f"Loss: {f'{lost:+.4f} nats a token' if lost else 'none'}.</strong></p>"
    )


def _notes(report: Mapping[str, Any]) -> str:
    rows = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return f"<ul>{rows}</ul>" if rows else ""


def _bytes(report: Mapping[str, Any]) -> str:
    stages = report["figures"]["bytes"]
    charts = []
    for key, heading in (
        ("touched", "Bytes of weights read for a token"),
        ("file", "Bytes in the file"),
    ):
        rows = {
            stage: {part.replace("_", " "): n for part, n in found[key].items()}
            for stage, found in stages.items()
        }
        charts.append(
            f"<h2>{heading}</h2>\n{svg.bars(heading, rows, lambda n: show_size(round(n)))}"
        )
    return "\n".join(charts)


def _losses(report: Mapping[str, Any]) -> str:
    steps = [step for step in report["compression"] if "nll_delta" in step["report"]]
    if not steps:
        return "<h2>Loss</h2>\n<p>None: the logits are the same bits as those of the dense int8 file.</p>"
    found = {step["technique"]: step["report"]["nll_delta"] for step in steps}
    rows = "".join(
        f"<tr><td>{escape(step['technique'])}</td><td>{step['report']['nll']:.4f}</td>"
        f"<td>{step['report']['nll_delta']:+.4f}</td><td>{100 * step['report']['top1_delta']:+.2f}</td></tr>"
        for step in steps
    )
    return (
        f"<h2>Loss by technique</h2>\n{svg.deltas('nll by technique', found, '{:+.4f}'.format)}\n"
        "<p>nll is the mean of minus the logarithm of the probability that the model gives the token which follows: "
        "less is better, and 0.01 more makes each such token 1 % less probable. top-1 is how often that token is the "
        "most probable one, in points of per cent. Each technique comes on top of those before.</p>\n"
        '<div class="scroll"><table><tr><th>technique</th><th>nll</th>'
        f"<th>more than before</th><th>top-1, points</th></tr>{rows}</table></div>"
    )


def _low_rank(step: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    kinds: dict[str, dict[str, str]] = {}
    for name in figures["spectra"]:
        _, layer, rest = name.split(".", 2)
        kinds.setdefault(rest.removesuffix(".weight"), {})[layer] = name
    charts, layers = (
        [],
        sorted({layer for by_layer in kinds.values() for layer in by_layer}, key=int),
    )
    for kind, by_layer in kinds.items():
        series, marks = {}, []
        for layer, name in by_layer.items():
            values = figures["spectra"][name]
            top = max(values[0], 1e-30)
            series[f"layer {layer}"] = [(i + 1, value / top) for i, value in enumerate(values)]
            if rank := figures["ranks"][name]:
                marks.append((rank, values[rank - 1] / top))
        chart = svg.curves(kind, series, marks, log_y=True, width=350, legend=False)
        charts.append(f"<figure>{chart}<figcaption>{escape(kind)}</figcaption></figure>")
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><td>layer {layer}</td>"
        + "".join(
            f"<td>{figures['ranks'].get(names.get(layer, ''), '') or 'dense'}</td>"
            for names in kinds.values()
        )
        + "</tr>"
        for layer in layers
    )
    return (
        "<h2>Spectra and ranks</h2>\n<p>Singular values by their number, the first as 1; a line for each layer, "
        f'a dot at the rank that was kept.</p>\n<div class="row">{"".join(charts)}</div>\n'
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'
    )


def _sparse(step: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    layers = step["report"]["layers"]
    names = {
        "sparsity": "do not fire",
        "fraction": "chosen",
        "recall": "found of those that fire",
        "energy": "energy",
    }
    series = {names[key]: [layer[key] for layer in layers] for key in names if key in layers[0]}
    chart = svg.columns("sparsity by layer", [str(i) for i in range(len(layers))], series)
    note = (
        "Of the neurons of each layer: how many do not fire, and how many are chosen and read. Found of those that "
        "fire: how many of them are among the chosen. Energy: how much of what the layer adds the chosen carry."
    )
    return f"<h2>Neurons by layer</h2>\n{chart}\n<p>{note}</p>"


def _head(step: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    chart = svg.curves("coverage", {"of the most probable tokens": figures["coverage"]}, log_x=True)
    rows = step["params"]["rows"]
    return (
        f"<h2>Head</h2>\n{chart}\n<p>Probability held by so many of the most probable tokens, on average: what a fixed "
        f"short list would cover. {rows:,} rows are read exactly for each token, chosen by a preview of all.</p>"
    )


def _search(search: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['options'])}</td><td>{one['nll']:.4f}</td><td>{show_size(one['resident'])}</td></tr>"
        for one in search["tried"]
    )
    return (
        f"<h2>Search</h2>\n<p>The best that stays within {show_size(search['budget'])} resident: "
        f'{escape(search["chosen"])}.</p>\n<div class="scroll"><table><tr><th>options</th><th>nll</th>'
        f"<th>resident</th></tr>{rows}</table></div>"
    )
