"""A head in two matrices: the rows of likely tokens in one, all others in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from converters.techniques.preview_head import places_of
from tests.helpers.tiny_models import (
    BOUNDS,
    DTYPES,
    VOCAB_SIZE,
    Oracle,
    error,
    pack_int4,
    read_tensors,
    rewrite,
    sort_head,
    write_tensors,
)
from tinyrwkv.errors import FormatError
from tinyrwkv.versions.forms import LIKELY
from tinyrwkv.versions.layout import VERSIONS

tokens_of = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=40)


@given(tokens_of, st.integers(1, VOCAB_SIZE - 1), st.integers(1, 3))
@settings(max_examples=20)
def test_each_logit_has_the_bits_of_its_own_matrix(
    tmp_path_factory, tiny, compiled, tokens, likely, threads
):
    folder = tmp_path_factory.mktemp("sorted")

    def sort_and_pack(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        sort_head(metadata, tensors, likely)
        pack_int4(metadata, tensors)

    def pack_but_the_head(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        names = "head.weight", "head.weight.scale"
        head = {name: tensors.pop(name) for name in names}
        pack_int4(metadata, tensors)
        tensors |= head

    source = tiny("v7", "int8")
    path = rewrite(source, folder / "sorted.trwkv", sort_and_pack)
    fine, coarse, found = (
        tinyrwkv.load(one, backend=compiled, threads=n).forward(tokens, logits="all")[0]
        for one, n in (
            (rewrite(source, folder / "fine.trwkv", pack_but_the_head), 1),
            (tiny("v7", "int4"), 1),
            (path, threads),
        )
    )
    is_likely = read_tensors(path)[1]["head.places"] < likely
    assert found[:, is_likely].tobytes() == fine[:, is_likely].tobytes()
    assert found[:, ~is_likely].tobytes() == coarse[:, ~is_likely].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", VERSIONS)
def test_every_backend_computes_what_the_reference_does(load, oracle, backend, arch, dtype):
    tokens = list(range(3, 40))
    found, _ = load(backend, arch, dtype, 1, "sorted").forward(tokens, logits="all")
    assert error(found, oracle(arch, dtype, "sorted").run(tokens)[0]) < BOUNDS[dtype]


def test_the_reference_puts_the_rows_in_the_order_of_the_ids(tiny):
    found, expected = (Oracle(tiny("v6", "int8", form)).weights for form in ("sorted", "dense"))
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["head.weight"], expected["head.weight"])


def test_a_token_reads_both_matrices_and_the_places(load):
    reads = {
        form: load("numpy", "v7", "int4", 1, form).plan()["touched_bytes_per_token"]
        for form in ("dense", "sorted")
    }
    of_likely_rows = 40 * (64 + 4 - 35)  # int8 with a scale in the place of packed int4
    assert reads["sorted"] - reads["dense"] == of_likely_rows + 2 * VOCAB_SIZE


def test_the_places_in_the_documentation():
    """The bytes that docs/format.md shows are those of the order that it describes."""
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text("utf-8")
    example = text.partition("As u16 they are")[2].partition("```")[2].partition("```")[0]
    shown = bytes.fromhex(example.strip()[8:58])
    assert places_of(np.array([3, 1, 0, 2, 4])).tobytes() == shown


def without_a_row(tensors: dict[str, np.ndarray]) -> None:
    tensors["head.weight"] = tensors["head.weight"][1:]


def with_a_row_twice(tensors: dict[str, np.ndarray]) -> None:
    tensors["head.places"][3] = tensors["head.places"][4]


def without_places(tensors: dict[str, np.ndarray]) -> None:
    del tensors["head.places"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_row, f"'{LIKELY}' has 40 rows beside 259, but must have 300 rows together"),
        (with_a_row_twice, "'head.places' must have every row once"),
        (without_places, "'head.places' is missing"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, tiny, change, message):
    metadata, tensors = read_tensors(tiny("v7", "int4", "sorted"))
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(tensors)
    path = write_tensors(tmp_path / "a.trwkv", metadata, tensors)
    with pytest.raises(FormatError, match=message):
        tinyrwkv.load(path, backend="numpy")
