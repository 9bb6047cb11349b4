"""The effects of errors on the residual stream."""

from __future__ import annotations

import numpy as np
import pytest

from converters.calibrate.effects import effects
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv.errors import ArgumentError

IDS = [0, *np.random.default_rng(5).integers(0, VOCAB_SIZE, 36).tolist()]


@pytest.mark.parametrize("arch", ["v4", "v5.0", "v5.2", "v6", "v7"])
def test_effects_of_values_are_exact(load, compiled, arch):
    """The residual stream is linear in the value: its effect is what disturbing an output does."""
    model = load(compiled, arch, "f32")
    found = effects(model, [IDS])
    expected = {"att.receptance", "att.key", "att.value"}
    expected |= {"att.gate"} & ({"att.gate"} if arch in ("v5.2", "v6") else set())
    expected |= {"ffn.receptance"} if arch != "v7" else set()
    layers = range(model.config["n_layer"])
    assert set(found) == {f"blocks.{i}.{name}.weight" for i in layers for name in expected}
    for effect in found.values():
        assert effect.shape == (model.config["n_embd"],)
        assert np.isfinite(effect).all()
        assert (effect > 0).all()


def test_nothing_to_read_is_refused(load, compiled):
    with pytest.raises(ArgumentError, match="no tokens"):
        effects(load(compiled), [[]])
