"""The table of operations against the code: what a row names exists, and is what runs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect

import pytest

from tests.helpers.tiny_models import DTYPES
from tinyrwkv.engine.numpy_backend import FORMS
from tinyrwkv.file.mapped import open_file
from tinyrwkv.kernels import abi as op
from tinyrwkv.program.formulas import FORMULAS
from tinyrwkv.program.operations import OPERATIONS
from tinyrwkv.program.program import Program
from tinyrwkv.versions.layout import VERSIONS

rows = pytest.mark.parametrize("opcode", OPERATIONS, ids=op.NAMES.get)


def named(package: str, name: str) -> object:
    """Return the function of a name such as module.function or module.class.method."""
    module, *inside = name.split(".")
    found: object = importlib.import_module(f"tinyrwkv.{package}.{module}")
    for attribute in inside:
        found = getattr(found, attribute)
    return found


def test_every_operation_has_its_rows():
    assert list(OPERATIONS) == list(FORMULAS) == list(op.NAMES)


@rows
def test_every_operation_has_a_formula(opcode):
    assert FORMULAS[opcode].formula


@rows
def test_the_emitter_writes_the_operation(opcode):
    emitter = named("program", FORMULAS[opcode].emitter)
    assert f"op.{op.NAMES[opcode]}," in inspect.getsource(emitter).replace(")", ",")


@rows
def test_the_kernel_exists_and_is_what_run_calls(opcode):
    if importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    kernel = named("kernels", FORMULAS[opcode].kernel)
    assert callable(kernel)
    run = importlib.import_module("tinyrwkv.kernels.run")
    assert getattr(run, FORMULAS[opcode].kernel.split(".")[1]) is kernel


@rows
def test_the_numpy_form_is_what_the_backend_calls(opcode):
    assert named("engine", FORMULAS[opcode].numpy_form) is FORMS[opcode]


every_model = [(arch, dtype, "dense") for arch in VERSIONS for dtype in DTYPES]
every_model += [
    (arch, dtype, form)
    for arch in VERSIONS
    for dtype in ("int8", "int4")
    for form in ("compressed", "predicted", "networked", "previewed", "sorted")
]


@pytest.mark.parametrize("which", every_model, ids="-".join)
def test_matrices_lie_inside_tensors_of_the_file(tiny, which):
    file = open_file(tiny(*which))
    tensors = [(t.offset, t.offset + t.nbytes) for t in file.tensors.values()]
    touched = 0
    for operation in Program(file).operations:
        row = OPERATIONS[operation.opcode]
        touched += row.touched(operation.fields)
        for start, stop in row.matrices(operation.fields):
            assert start < stop
            assert any(first <= start and stop <= last for first, last in tensors), operation
    assert 0 < touched <= len(file.bytes) + 4 * op.SCALES * 2


LAYER_OF_V4 = """
NORM blocks.1.ln1, SHIFT blocks.1.att.token_shift,
MATMUL blocks.1.att.receptance.weight, MATMUL blocks.1.att.key.weight,
MATMUL blocks.1.att.value.weight, SYNC,
WKV4 blocks.1.att.wkv, SYNC,
MATMUL blocks.1.att.output.weight, SYNC,
NORM blocks.1.ln2, SHIFT blocks.1.ffn.token_shift,
MATMUL blocks.1.ffn.key.weight, MATMUL blocks.1.ffn.receptance.weight, SYNC,
MATMUL blocks.1.ffn.value.weight, SYNC
"""


def test_a_layer_of_v4_in_words(tiny):
    program = Program(open_file(tiny("v4", "f32")))
    found = [
        f"{op.NAMES[operation.opcode]} {operation.label}".strip()
        for operation in program.operations
        if operation.layer == 1
    ]
    assert found == [words.strip() for words in LAYER_OF_V4.replace("\n", " ").split(",")]
