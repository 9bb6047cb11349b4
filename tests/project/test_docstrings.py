"""Docstrings: what is public says what it takes, gives and raises, in the sections of numpydoc."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import tinyrwkv
from converters.calibrate import collect, documents, effects
from converters.judge import metrics
from converters.techniques import low_rank, predict_ffn, preview_head, sparse_ffn
from tests.helpers.lessons import head_clusters
from tests.helpers.places import ROOT

CONVERTERS = {  # the functions that docs/api-mathematics.md shows
    documents: ("choose_documents", "sample_documents"),
    collect: ("collect", "quantize_inputs"),
    effects: ("effects",),
    low_rank: ("spectrum", "round_factors", "choose_ranks"),
    head_clusters: ("cluster_head", "cluster_logits"),
    preview_head: ("fit_preview", "preview_logits"),
    sparse_ffn: ("sparse_exact", "bundle"),
    predict_ffn: ("fit_layer", "find_prices", "predicted"),
    metrics: ("nll_of_text", "lambada_accuracy", "exact_match"),
}
INNER = {"check_tokens", "check_state", "chunk", "read", "start"}  # for the rest of the package


def members(thing: type) -> dict[str, Any]:
    """Return what a class and the project's classes above it define."""
    found: dict[str, Any] = {}
    for base in reversed(thing.__mro__):
        if base.__module__.startswith("tinyrwkv."):
            found |= vars(base)
    return found


def public() -> Iterator[tuple[str, Any]]:
    """Yield the classes, functions and methods that a user calls."""
    for name in tinyrwkv.__all__:
        thing = getattr(tinyrwkv, name)
        if inspect.isclass(thing):
            yield name, thing
            for key, member in members(thing).items():
                if not key.startswith("_") and key not in INNER:
                    member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                    if inspect.isfunction(member):
                        yield f"{name}.{key}", member
        elif callable(thing):
            yield name, thing
    for module, names in CONVERTERS.items():
        for name in names:
            yield f"{module.__name__}.{name}", getattr(module, name)


PUBLIC = dict(public())


def missing(thing: Any) -> Iterator[str]:
    """Yield what the docstring of a function does not tell."""
    doc = inspect.getdoc(thing) or ""
    headings = re.findall(r"^(\w+)\n-+$", doc, re.MULTILINE)
    if not re.match(r"[A-Z`].{0,118}\.(\n|$)", doc):
        yield "a first line that is one sentence"
    if inspect.isclass(thing):
        return
    signature = inspect.signature(thing)
    for name, parameter in signature.parameters.items():
        if name != "self" and not re.search(rf"^[\w, ]*\b{name}\b[\w, ]* : ", doc, re.MULTILINE):
            yield f"the parameter {parameter}"
    told = {"Returns", "Yields"} & set(headings) or doc.startswith(
        ("Return ", "Tell whether ", "The ")
    )
    if signature.return_annotation != "None" and not told:
        yield "what it returns"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_described(name: str) -> None:
    assert not list(missing(PUBLIC[name])), (
        f"{name}: its docstring lacks {', '.join(missing(PUBLIC[name]))}"
    )


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if "." not in name and not name.endswith("Error")]
)
def test_a_public_name_has_an_example(name: str) -> None:
    members = [thing for key, thing in PUBLIC.items() if key == name or key.startswith(name + ".")]
    assert any(">>> " in (inspect.getdoc(thing) or "") for thing in members)


def test_what_is_missing_is_found() -> None:
    def undescribed(tokens: int) -> int:
        """Do something."""
        return tokens

    assert list(missing(undescribed)) == ["the parameter tokens: 'int'", "what it returns"]


@pytest.mark.parametrize("page", ["api", "api-mathematics"])
def test_what_a_page_lists_exists(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: ([\w.]+).*\n((?:   :.*\n)*)", text, re.MULTILINE)
    assert listed
    for path, members in listed:
        thing, names = pkgutil.resolve_name(path), re.findall(r":members: (.+)", members)
        assert [
            name for name in ", ".join(names).split(", ") if name and not hasattr(thing, name)
        ] == []
