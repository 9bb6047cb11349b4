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
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; }
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
    sections = [_summary(report), _notes(report), _bytes(report), _losses(report), _texts(report)]
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
        f"the loss of each technique was measured on {counts['held_tokens']:,} held-out tokens of "
        "it.</p>\n"
        f"<p><strong>Each token reads {after} of weights, {before} before (dense, int8). "
        f"Loss: {loss}.</strong></p>"
    )


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
    chart = svg.bars(heading, rows, lambda nbytes: show_size(round(nbytes)))
    return f"<h2>{heading}</h2>\n{chart}"


def _losses(report: Json) -> str:
    steps = _with_loss(report)
    if not steps:
        none = "None: the logits are the same bits as those of the dense int8 file."
        return f"<h2>Loss</h2>\n<p>{none}</p>"
    deltas = {step["technique"]: step["report"]["nll_delta"] for step in steps}
    rows = [(step["technique"], *_loss_cells(step["report"])) for step in steps]
    return (
        "<h2>Loss by technique</h2>\n"
        + svg.deltas("nll by technique", deltas, "{:+.4f}".format)
        + "\n<p>nll is the mean of minus the logarithm of the probability that the model gives to "
        "the token that follows: less is better, and 0.01 more makes each such token 1 % less "
        "probable. top-1 is how often that token is the most probable one, in percentage points. "
        "Each technique comes on top of those before.</p>\n"
        + _table(("technique", "nll", "more than before", "top-1, points"), rows)
    )


def _with_loss(report: Json) -> list[Json]:
    """Return the techniques that lost something, without the texts that judged all of them."""
    return [
        step
        for step in report["compression"]
        if "nll_delta" in step["report"] and step["technique"] != JUDGE
    ]


def _loss_cells(found: Json) -> tuple[str, str, str]:
    """Return the nll, and by how much nll and top-1 differ from those before."""
    nll, more, top1 = found["nll"], found["nll_delta"], 100 * found["top1_delta"]
    return f"{nll:.4f}", f"{more:+.4f}", f"{top1:+.2f}"


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
        + _table(("text", "tokens", "nll", "more than dense int8", "top-1, points"), rows)
    )


def _low_rank(step: Json, figures: Json) -> str:
    kinds = _by_kind(figures["spectra"])
    charts = []
    for kind, names in kinds.items():
        chart = _spectra(kind, names, figures)
        charts.append(f"<figure>{chart}<figcaption>{escape(kind)}</figcaption></figure>")
    rows = []
    layers = set().union(*kinds.values())
    for layer in sorted(layers, key=int):
        ranks = [figures["ranks"].get(names.get(layer, ""), "") for names in kinds.values()]
        rows.append([f"layer {layer}", *(str(rank or "dense") for rank in ranks)])
    return (
        "<h2>Spectra and ranks</h2>\n<p>Singular values by their number, the first as 1; a line "
        "for each layer, a dot at the rank that was kept.</p>\n"
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
    return svg.curves(kind, series, marks, log_y=True, width=350, legend=False)


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
    chart = svg.columns("sparsity by layer", [str(i) for i in range(len(layers))], series)
    note = (
        "Shares of the neurons of each layer: those that do not fire, and those that are chosen "
        "and read. Found of those that fire: the share of them that is chosen. Energy: the share "
        "of what the layer adds that comes from the chosen ones."
    )
    return f"<h2>Neurons by layer</h2>\n{chart}\n<p>{note}</p>"


def _head(step: Json, figures: Json) -> str:
    series = {"of the most probable tokens": figures["coverage"]}
    chart = svg.curves("coverage", series, log_x=True)
    rows = step["params"]["rows"]
    return (
        f"<h2>Head</h2>\n{chart}\n<p>The probability that the most probable tokens hold together, "
        "by their number, on average: what a fixed short list would cover. "
        f"{rows:,} rows are read exactly for each token, chosen by a preview of all.</p>"
    )


def _search(search: Json) -> str:
    rows = []
    for tried in search["tried"]:
        rows.append((tried["options"], f"{tried['nll']:.4f}", show_size(tried["resident"])))
    return (
        f"<h2>Search</h2>\n<p>The best that stays within {show_size(search['budget'])} resident: "
        f"{escape(search['chosen'])}.</p>\n" + _table(("options", "nll", "resident"), rows)
    )
