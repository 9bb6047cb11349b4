"""The list of tensors: exactly what the formulas of each version use, in an order and with shapes that fit them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.tiny_models import shape_of
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import SHIFTED, VERSIONS, tensor_shapes

RANKS = {"low": 8, "5 low": 40, "low w": 7, "low a": 5, "low g": 3, "low v": 9}


def weights_of(config: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal([RANKS[n] if isinstance(n, str) else n for n in shape]).astype(
            np.float32
        )
        * np.float32(0.3)
        for name, shape in tensor_shapes(config).items()
    }


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_reference_uses_every_tensor_and_needs_no_other(arch):
    config = shape_of(arch, vocab=5, width=32, ffn=24)
    weights, state = weights_of(config), reference.new_state(config)
    state = reference.forward(weights, config, 1, state)[
        1
    ]  # any other tensor it needs would be a KeyError
    for name in weights:
        poisoned = weights | {name: np.full_like(weights[name], np.nan)}
        with np.errstate(all="ignore"):
            logits, after = reference.forward(poisoned, config, 2, state)
        assert np.isnan(logits).any() or np.isnan(after).any(), f"{name} changes nothing"


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_order_is_that_of_use(arch):
    names = list(tensor_shapes(shape_of(arch, layers=3)))
    assert names[0] == "emb.weight" and names[-1] == "head.weight"
    layers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    assert layers == sorted(layers) and set(layers) == {0, 1, 2}
    first = [name.removeprefix("blocks.0.") for name in names if name.startswith("blocks.0.")]
    assert (
        first.index("ln1.weight")
        < first.index("att.output.weight")
        < first.index("ln2.weight")
        < first.index("ffn.key.weight")
    )


@pytest.mark.parametrize("arch", VERSIONS)
def test_matrices_are_out_by_in(arch):
    shapes = tensor_shapes(shape_of(arch))
    assert shapes["emb.weight"] == shapes["head.weight"] == (300, 64)
    assert shapes["blocks.1.ffn.key.weight"] == (96, 64) and shapes[
        "blocks.1.ffn.value.weight"
    ] == (64, 96)
    assert shapes["blocks.0.att.token_shift"] == (len(SHIFTED[arch]), 64)
    assert ("blocks.0.ffn.receptance.weight" in shapes) == (arch != "v7")
    assert ("blocks.0.att.gate.weight" in shapes) == (arch in ("v5.1", "v5.2", "v6"))


def test_only_v7_has_a_gate_of_values_and_not_in_layer_0():
    shapes = tensor_shapes(shape_of("v7"))
    assert "blocks.0.att.v0" not in shapes and shapes["blocks.1.att.v0"] == (64,)
    assert shapes["blocks.1.att.v1.weight"] == ("low v", 64) and shapes[
        "blocks.1.att.v2.weight"
    ] == (64, "low v")
    assert "blocks.0.att.v1.weight" not in shapes and "blocks.0.att.g0" not in shapes


@pytest.mark.parametrize("arch", VERSIONS)
def test_a_hostile_number_of_layers_stays_small(arch):
    config = shape_of(arch, layers=1 << 12)
    assert len(tensor_shapes(config)) < 160_000
