"""The page that shows what compression did to a model, and the same numbers as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tinyrwkv.errors import os_errors
from tinyrwkv.file.output import Kind, check_output, new_file
from tinyrwkv.units import show_size

from ..judge.by_text import JUDGE
from ..write.marks import is_marked
from . import svg

Json = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2330; --soft: #667085; --line: #d7dce5; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --soft: #9aa4b5; --line: #3a4250; --paper: #14181f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p, figcaption { color: var(--soft); }
svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.6; }
.mark { fill: var(--ink); }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem 1rem; margin-bottom: 1.5rem; }
figure { margin: 0; }
figcaption { margin: .3rem 0 1rem; }
.row figcaption { margin: 0; color: var(--ink); font-weight: 600; text-align: center; }
.c0 { fill: #3b76c4; } .c1 { fill: #d9822b; } .c2 { fill: #3f9b6b; }
.c3 { fill: #9264b8; } .c4 { fill: #c24d52; } .c5 { fill: #7a8796; }
.s0 { stroke: #3b76c4; } .s1 { stroke: #d9822b; } .s2 { stroke: #3f9b6b; }
.s3 { stroke: #9264b8; } .s4 { stroke: #c24d52; } .s5 { stroke: #7a8796; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child { text-align: left; }
@media (max-width: 500px) { svg text { font-size: 15px; } }
"""

_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="generator" content="tinyrwkv-convert">\
<title>{title}</title>\
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


_MARK = b'"written_by": "tinyrwkv-convert --report"'

PAGE = Kind(
    "a page that --report wrote",
    lambda path: is_marked(path, b"<!doctype html>", b'content="tinyrwkv-convert"'),
)
NUMBERS = Kind("a file that --report wrote", lambda path: is_marked(path, b"{", _MARK))


def files_of_report(path: str) -> dict[str, str]:
    """Return the two files of a report by what they are for: the page and its numbers."""
    return {"report": path, "file of the report's numbers": os.path.splitext(path)[0] + ".json"}


def check_report(path: str) -> None:
    """Refuse a report that would take the place of anything but an older one.

    Raises
    ------
    ArgumentError
        There is a file of another kind.
    FormatError
        There is no such folder, or something that is no file has the name.
    """
    page, numbers = files_of_report(path).values()
    check_output(page, PAGE)
    check_output(numbers, NUMBERS)


def write_report(path: str, report: Json) -> str:
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
    page_path, numbers_path = files_of_report(path).values()
    numbers = {"written_by": "tinyrwkv-convert --report", **report}
    with new_file(numbers_path, NUMBERS) as file, os_errors(numbers_path, "write"):
        file.write(json.dumps(numbers, indent=1).encode() + b"\n")
    with new_file(page_path, PAGE) as file, os_errors(page_path, "write"):
        file.write(page(report).encode())
    return numbers_path


def page(report: Json) -> str:
    """Return one page of HTML that needs nothing else.

    Parameters
    ----------
    report : mapping
        As `compress` returns it.

    Returns
    -------
    str
    """
    title = f"{os.path.basename(report['output'])}: what compression did"
    sections = [_summary(report), _notes(report), _bytes(report), _resident(report)]
    sections += [_losses(report), _texts(report)]
    drawings = {"low rank": _low_rank, "sparse ffn": _sparse, "head": _head}
    for step in report["compression"]:
        technique = step["technique"]
        if technique in drawings:
            figures = report["figures"].get(technique, {})
            sections.append(drawings[technique](step, figures))
    if "search" in report:
        sections.append(_search(report["search"]))
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(sections))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are text, not markup."""
    first = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(_row(cells) for cells in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{body}</table></div>'


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _summary(report: Json) -> str:
    shape = (
        f"RWKV {report['arch']}, {report['n_layer']} layers of {report['n_embd']}, "
        f"vocabulary {report['vocab_size']}"
    )
    steps = report["compression"]
    calibration = next(step for step in steps if step["technique"] == "calibration")
    text, counts = calibration["params"]["text"], calibration["report"]
    stages = list(report["figures"]["bytes"].values())
    before, after = (_read_bytes(stage) for stage in (stages[0], stages[-1]))
    lost = sum(step["report"]["nll_delta"] for step in _with_loss(report))
    loss = f"{lost:+.4f} nats a token" if lost else "none"
    return (
        f"<p>{escape(shape)}, from {escape(os.path.basename(report['input']))}. "
        f"Fitted to {counts['fit_tokens']:,} tokens of {escape(text)}; "
        "the loss of each technique was measured on its held-out part, "
        f"{counts['held_tokens']:,} tokens with the token 0 before each document.</p>\n"
        f"<p><strong>Each token reads {after} of weights, {before} before (dense, int8). "
        f"{_sizes(report)} Loss: {loss}.</strong></p>"
    )


def _sizes(report: Json) -> str:
    """Return a sentence on the file, and what of it is in memory where the system tells that."""
    dense = show_size(sum(report["figures"]["bytes"]["dense"]["file"].values()))
    file = f"The file has {show_size(report['file_bytes'])}, {dense} before"
    resident = report["figures"]["resident"]
    if None in resident.values():
        return f"{file}."
    after, before = (show_size(resident[name]) for name in ("output", "dense"))
    return f"{file}; {after} of it are in memory after 200 tokens, {before} before."


def _read_bytes(stage: Json) -> str:
    """Return the bytes of weights that a token reads, for people."""
    return show_size(round(sum(stage["touched"].values())))


def _notes(report: Json) -> str:
    rows = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return f"<ul>{rows}</ul>" if rows else ""


def _bytes(report: Json) -> str:
    touched = _stacked_bytes(report, "touched", "Bytes of weights read for a token")
    return touched + "\n" + _stacked_bytes(report, "file", "Bytes in the file")


def _stacked_bytes(report: Json, key: str, heading: str) -> str:
    """Return a chart with a bar for each stage."""
    rows = {}
    for stage, found in report["figures"]["bytes"].items():
        rows[stage] = {part.replace("_", " "): nbytes for part, nbytes in found[key].items()}
    return f"<h2>{heading}</h2>\n{svg.bars(heading, rows, _show_bytes)}"


def _show_bytes(nbytes: float) -> str:
    return show_size(round(nbytes))


def _resident(report: Json) -> str:
    """Return a chart of the bytes in memory; nothing where the system does not tell them."""
    resident = report["figures"]["resident"]
    if None in resident.values():
        return ""
    heading = "Bytes of the file in memory"
    rows = {
        "dense": {"in memory": resident["dense"]},
        "compressed": {"in memory": resident["output"]},
    }
    caption = (
        "After 200 tokens sampled at temperature 1 from a cold start: the pages of the file that "
        "the process has mapped by then, with those that the system maps around them."
    )
    return f"<h2>{heading}</h2>\n" + _figure(svg.bars(heading, rows, _show_bytes), caption)


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def _losses(report: Json) -> str:
    steps = _with_loss(report)
    if not steps:
        none = "None: the logits are the same bits as those of the dense int8 file."
        return f"<h2>Loss</h2>\n<p>{none}</p>"
    deltas = {step["technique"]: step["report"]["nll_delta"] for step in steps}
    chart = svg.deltas("nll by technique", deltas, "{:+.4f}".format, "nll, more than before")
    caption = (
        "nll is the mean of minus the logarithm of the probability that the model gives to the "
        "token that follows: less is better, and 0.01 more makes each such token 1 % less "
        "probable. top-1 is how often that token is the most probable one. Each technique comes "
        "on top of those before."
    )
    return (
        "<h2>Loss by technique</h2>\n"
        + _figure(chart, caption)
        + "\n"
        + _table(("technique", *_LOSS), [_baseline(report), *map(_loss_row, steps)])
    )


_LOSS = ("nll", "more than before", "top-1, %", "points more")


def _baseline(report: Json) -> tuple[str, ...]:
    """Return the row of the dense model, which the first technique is compared with."""
    step = next(one for one in report["compression"] if one["technique"] == "calibration")
    found = step["report"]
    return "dense, int8", f"{found['nll']:.4f}", "", f"{100 * found['top1']:.2f}", ""


def _loss_row(step: Json) -> tuple[str, ...]:
    return step["technique"], *_loss_cells(step["report"])


def _with_loss(report: Json) -> list[Json]:
    """Return the techniques that lost something, without the texts that judged all of them."""
    return [
        step
        for step in report["compression"]
        if "nll_delta" in step["report"] and step["technique"] != JUDGE
    ]


def _loss_cells(found: Json) -> tuple[str, str, str, str]:
    """Return nll and top-1, each with how much more it is than before."""
    nll, top1 = found["nll"], 100 * found["top1"]
    more, points = found["nll_delta"], 100 * found["top1_delta"]
    return f"{nll:.4f}", f"{more:+.4f}", f"{top1:.2f}", f"{points:+.2f}"


def _texts(report: Json) -> str:
    """Return a table of what all techniques together lose on each text; nothing without texts."""
    judged = [step for step in report["compression"] if step["technique"] == JUDGE]
    if not judged:
        return ""
    rows = [
        (step["params"]["text"], f"{step['report']['tokens']:,}", *_loss_cells(step["report"]))
        for step in judged
    ]
    return (
        "<h2>Loss by text</h2>\n<p>What all techniques together lose. Only the text of the first "
        "row, which was held out from fitting, decides whether a technique is left out.</p>\n"
        + _table(("text", "tokens", "nll", "more than dense int8", *_LOSS[2:]), rows)
    )


def _low_rank(step: Json, figures: Json) -> str:
    kinds = _by_kind(figures["spectra"])
    charts = []
    for kind, names in kinds.items():
        chart = _spectra(kind, names, figures)
        charts.append(f"<figure><figcaption>{escape(kind)}</figcaption>{chart}</figure>")
    rows = []
    layers = set().union(*kinds.values())
    for layer in sorted(layers, key=int):
        ranks = [figures["ranks"].get(names.get(layer, ""), "") for names in kinds.values()]
        rows.append([f"layer {layer}", *(str(rank or "dense") for rank in ranks)])
    return (
        "<h2>Spectra and ranks</h2>\n<p>The singular values of each kind of matrix, the first as "
        "1; a line for each layer, a dot at the rank that was kept. The table has the ranks.</p>\n"
        f'<div class="row">{"".join(charts)}</div>\n' + _table(["", *kinds], rows)
    )


def _by_kind(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the names of matrices by their kind, such as att.key, and by their layer."""
    kinds: dict[str, dict[str, str]] = {}
    for name in names:
        _, layer, rest = name.split(".", 2)
        kinds.setdefault(rest.removesuffix(".weight"), {})[layer] = name
    return kinds


def _spectra(kind: str, names: Mapping[str, str], figures: Json) -> str:
    """Return a chart of the singular values of one kind of matrix in all layers."""
    series, marks = {}, []
    for layer, name in names.items():
        values = figures["spectra"][name]
        top = max(values[0], 1e-30)
        series[f"layer {layer}"] = [(i + 1, value / top) for i, value in enumerate(values)]
        rank = figures["ranks"][name]
        if rank:
            marks.append((rank, values[rank - 1] / top))
    titles = ("number of the singular value", "singular value")
    return svg.curves(kind, series, marks, log_y=True, width=350, titles=titles, in_order=True)


def _sparse(step: Json, figures: Json) -> str:
    layers = step["report"]["layers"]
    names = {
        "sparsity": "do not fire",
        "fraction": "chosen",
        "recall": "found of those that fire",
        "energy": "energy",
    }
    series = {}
    for key, name in names.items():
        if key in layers[0]:
            series[name] = [layer[key] for layer in layers]
    chart = svg.columns(
        "sparsity by layer",
        [str(i) for i in range(len(layers))],
        series,
        titles=("layer", "share"),
    )
    caption = " ".join(_MEANINGS[key] for key in names if key in layers[0])
    return f"<h2>Neurons by layer</h2>\n{_figure(chart, caption)}"


_MEANINGS = {
    "sparsity": "Do not fire: the share of the layer's neurons that give 0 on average.",
    "fraction": "Chosen: the share of them that is read.",
    "recall": "Found of those that fire: the share of the firing ones that is chosen.",
    "energy": "Energy: the share of what the layer adds that comes from the chosen ones.",
}
"""What the bars of `_sparse` show."""


def _head(step: Json, figures: Json) -> str:
    titles = ("number of the most probable tokens", "their probability together")
    chart = svg.curves("coverage", {"": figures["coverage"]}, log_x=True, titles=titles)
    caption = (
        "The probability that the most probable tokens hold together, by their number, on average: "
        "what a fixed short list would cover. "
        f"{step['params']['rows']:,} rows are read exactly for each token, chosen by a preview of "
        "all."
    )
    return f"<h2>Head</h2>\n{_figure(chart, caption)}"


def _search(search: Json) -> str:
    rows = []
    for tried in search["tried"]:
        rows.append((tried["options"], f"{tried['nll']:.4f}", show_size(tried["resident"])))
    return (
        f"<h2>Search</h2>\n<p>The best that stays within {show_size(search['budget'])} resident: "
        f"{escape(search['chosen'])}.</p>\n" + _table(("options", "nll", "resident"), rows)
    )
