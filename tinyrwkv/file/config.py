"""Types of the metadata in a file: a model's sizes, and what was done to it (docs/format.md)."""

from __future__ import annotations

from typing import Any, TypedDict


class Sizes(TypedDict):
    """The sizes that decide how large a state is; in the files of models and of states."""

    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    head_size: int


class ModelSizes(Sizes):
    """The sizes that decide which tensors a model has, and their shapes."""

    n_ffn: int
    vocab_size: int


class _Source(TypedDict):
    name: str
    sha256: str


class Source(_Source, total=False):
    """The checkpoint that a model was converted from."""

    license: str


class CompressionStep(TypedDict):
    """One technique of compression: its options, and what it measured."""

    technique: str
    params: dict[str, Any]
    report: dict[str, Any]


class _Optional(TypedDict, total=False):
    template: str
    source: Source
    compression: list[CompressionStep]
    created_by: str


class Config(ModelSizes, _Optional):
    """The metadata of a model file."""

    kind: str
    ln_x_eps: float
    dtype: str


class Origin(Sizes):
    """The model that a state belongs to."""

    model: str  # its hash
