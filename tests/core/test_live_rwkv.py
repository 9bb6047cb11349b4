"""Fresh random checkpoints against the installed official package: ``pytest -m live``.

Needs torch and rwkv, here or in the interpreter that the environment variable RWKV_PYTHON names.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import tinyrwkv
from converters.write.convert import convert
from tests.helpers.checkpoints import VERSIONS, raw_checkpoint
from tests.helpers.golden_files import file_state
from tests.helpers.official import official_version, run_official
from tinyrwkv.file import quant
from tinyrwkv.file.mapped import open_file
from tinyrwkv.versions import reference

pytestmark = pytest.mark.live

PYTHON = os.environ.get("RWKV_PYTHON", sys.executable)

# Usually 1e-6 of the logits' standard deviation. It is more where a group norm enlarges the
# rounding of a head whose answer is nearly zero: 9e-6 was the largest seen, in v5.0. There, either
# of the two was closer to float64.
TOLERANCE = 1e-4


class Case(NamedTuple):
    """A random checkpoint, what it is converted to, and the official answer."""

    name: str
    tokens: list[int]
    model: Path
    logits: np.ndarray  # (T, V)
    state: np.ndarray  # (S,)


@pytest.fixture(
    scope="module", params=[(version, N) for version in VERSIONS for N in (16, 64)], ids=str
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Make a checkpoint, run the package on it, convert it."""
    if "live" not in request.config.option.markexpr:
        pytest.skip("opt in with -m live")
    if not official_version(PYTHON):
        pytest.skip(
            f"{PYTHON} has no torch or rwkv: install them, "
            "or name an interpreter that has them in RWKV_PYTHON"
        )
    version, N = request.param
    seed = secrets.randbits(32)
    name = f"raw_checkpoint({version!r}, 3, 128, {N}, seed={seed})"
    tokens = np.random.default_rng(seed).integers(0, 256, 17).tolist()
    raw = raw_checkpoint(
        version, 3, 128, N, seed=seed
    )  # the package can't load v5.0 or v5.1 with a single head
    folder = tmp_path_factory.mktemp("live")
    pth, model = folder / "a.pth", folder / "a.trwkv"
    official = run_official(raw, version, tokens, python=PYTHON, checkpoint=pth)
    convert(pth, model, dtype="f32")
    return Case(name, tokens, model, official["logits"], file_state(official, version))


def agree(case: Case, logits: np.ndarray | None, state: np.ndarray) -> None:
    """Compare logits after each token and the last state with the official ones."""
    assert logits is not None
    std = case.logits.std()
    assert np.abs(logits - case.logits).max() <= TOLERANCE * std, case.name
    best = logits.argmax(axis=1)
    lost = case.logits.max(axis=1) - np.take_along_axis(case.logits, best[:, None], axis=1)[:, 0]
    assert lost.max() <= 2 * TOLERANCE * std, case.name  # the same token, or one as good
    np.testing.assert_allclose(state, case.state, rtol=TOLERANCE, atol=TOLERANCE, err_msg=case.name)


def test_reference_agrees_with_the_official_package(case: Case) -> None:
    with open_file(case.model) as file:
        weights, config = quant.dequantize(file), file.metadata
    state = reference.new_state(config)
    logits = []
    for token in case.tokens:
        out, state = reference.forward(weights, config, token, state)
        logits.append(out)
    agree(case, np.stack(logits), state)


@pytest.mark.parametrize("backend", ["numpy", "numba", "native"])
def test_engine_agrees_with_the_official_package(case: Case, backend: str) -> None:
    try:
        model = tinyrwkv.load(case.model, backend=backend)
    except tinyrwkv.TinyRWKVError as error:
        if backend == "numpy" or not error.object.startswith("backend"):  # numpy is there always
            raise
        pytest.skip(str(error))
    logits, state = model.forward(case.tokens, model.new_state(), logits="all")
    agree(case, logits, state.data)
