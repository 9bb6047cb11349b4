"""Programs: every offset inside its memory, no races between threads, and hostile model files refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import (
    DTYPES,
    read_tensors,
    rewrite,
    shape_of,
    write_model,
    write_tensors,
)
from tinyrwkv.cli.formulas import describe
from tinyrwkv.errors import FormatError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.kernels import abi as op
from tinyrwkv.kernels.abi import FIELDS, MAX_TOKENS, NAMES, NONE
from tinyrwkv.program.builder import qmax
from tinyrwkv.program.program import HEAD_ROWS, Program
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import VERSIONS, tensor_shapes


def program_of(path: str) -> Program:
    return Program(open_file(path))


def operations(program: Program) -> list[tuple[int, dict[str, int]]]:
    """Return opcode and fields by name of each operation."""
    return [(row[0], dict(zip(FIELDS[row[0]], row[1:], strict=True))) for row in program.rows]


# Programs.


@given(st.integers(1, 1 << 22))
def test_a_sum_of_int8_times_int16_fits_in_int32(cols):
    largest = qmax(cols)
    assert 1 <= largest <= 127 * 256  # its upper byte, rounded, is a byte again
    assert 127 * largest * cols <= 2**31 - 1
    assert largest == 127 * 256 or 127 * (largest + 1) * cols > 2**31 - 1


every_model = [
    (arch, dtype, form) for arch in VERSIONS for dtype in DTYPES for form in ("dense", "compressed")
]
every_model += [
    (arch, "int8", form) for arch in VERSIONS for form in ("predicted", "networked", "previewed")
]


@pytest.fixture(params=every_model, ids="-".join)
def program(request, tiny):
    return program_of(tiny(*request.param))


def test_the_table_is_the_rows(program):
    assert program.table.dtype == np.int64 and program.table.shape == (len(program.rows), op.WIDTH)
    assert program.table.flags["C_CONTIGUOUS"]
    for row, listed in zip(program.table.tolist(), program.rows, strict=True):
        assert row[: len(listed)] == listed and len(listed) == 1 + len(FIELDS[listed[0]])
    lines = list(describe(program))
    assert len(lines) == len(program.rows) == len(program.notes)
    assert all(NAMES[row[0]] in line for row, line in zip(program.rows, lines, strict=True))


def test_tokens_can_pause_where_threads_have_met(program):
    codes = [row[0] for row in program.rows]
    assert codes[0] == op.EMBED and codes[1] == op.SYNC
    assert (
        len(program.layer_ends) == program.config["n_layer"]
        and sorted(program.layer_ends) == program.layer_ends
    )
    assert all(codes[end - 1] == op.SYNC for end in program.layer_ends)
    assert program.layer_ends[-1] == program.select and codes[program.select] == op.SELECT


def test_the_head_is_cut_so_that_a_deadline_is_looked_at(tmp_path):
    path = write_model(
        tmp_path / "wide.trwkv",
        shape_of("v4", layers=1, width=8, vocab=2 * HEAD_ROWS + 5, ffn=8),
        "int8",
    )
    program = program_of(path)
    heads = [
        field
        for code, field in operations(program)
        if code == op.MATMUL and field["mode"] == op.LOGITS
    ]
    assert [field["units"] * field["unit"] for field in heads] == [HEAD_ROWS, HEAD_ROWS, 5]
    assert [field["dst"] for field in heads] == [0, 4 * HEAD_ROWS, 8 * HEAD_ROWS]
    head = program.file.tensors["head.weight"]
    assert [field["weight"] - head.offset for field in heads] == [0, 8 * HEAD_ROWS, 16 * HEAD_ROWS]


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_first_state_is_that_of_the_reference(tiny, arch):
    program = program_of(tiny(arch, "f32"))
    expected = reference.new_state(program.config)
    assert program.state_size == expected.size
    if hasattr(program, "initial_state"):
        assert program.initial_state().tobytes() == expected.tobytes()


WHOLE, SPLIT = "whole", "split"  # read or written by every thread, or each thread its part


def spans(
    program: Program, code: int, field: dict[str, int]
) -> list[tuple[str, str, str, int, int]]:
    """Return what an operation uses of the workspaces: (place, read or write, WHOLE or how split, first, end)."""
    tokens, used = 4 * MAX_TOKENS, []

    def use(place, access, how, first, size):
        used.append((place, access, how, first, first + size))

    if code == op.EMBED:
        use("shared", "write", SPLIT, field["dst"], tokens * field["width"])
    elif code == op.NORM:
        use("shared", "read", WHOLE, field["src"], tokens * field["width"])
        use("private", "write", WHOLE, field["dst"], tokens * field["width"])
    elif code == op.SHIFT:
        use("private", "read", WHOLE, field["src"], tokens * field["width"])
        use("private", "write", WHOLE, field["dst"], tokens * field["width"] * field["count"])
        if field["delta"] != NONE:
            use("shared", "read", WHOLE, field["delta"], tokens * field["width"] * field["count"])
    elif code == op.QUANTIZE:
        extent = 4 * ((MAX_TOKENS - 1) * field["stride"] + field["width"])
        use("shared" if field["shared"] else "private", "read", WHOLE, field["src"], extent)
        use("private", "write", WHOLE, field["dst"], tokens // 2 * field["width"])
        use("private", "write", WHOLE, field["dst_scale"], tokens)
    elif code in (op.MATMUL, op.PREDICT, op.SPARSE):
        rows, by_unit = field["units"] * field["unit"], f"by {field['unit']}"
        by_unit = "by block of neurons" if code == op.PREDICT else by_unit
        # The last token's part of a row ends before its stride does.
        extent = (2 if field["kind"] == op.INT8 else 4) * (
            (MAX_TOKENS - 1) * field["stride"] + field["cols"]
        )
        use("shared" if field["shared"] else "private", "read", WHOLE, field["src"], extent)
        if field["src_scale"] != NONE:
            use("private", "read", WHOLE, field["src_scale"], tokens)
        if field["mode"] != op.LOGITS:
            use("shared", "write", by_unit, field["dst"], tokens * rows)
        if field["mode"] == op.GATED_ADD:
            use("shared", "read", by_unit, field["gate"], tokens * rows)
        if field["diag"] != NONE:
            use("private", "read", WHOLE, field["diag_src"], tokens * rows)
        if code == op.PREDICT:
            use("private", "write", WHOLE, field["sums"], 8 * field["cols"])
            if field["network"] != NONE:
                use("shared", "read", by_unit, field["network"], tokens * rows)
        if code == op.SPARSE:
            use("private", "write", WHOLE, field["list"], 12 * field["cols"] + 4 * rows)
    elif code == op.SELECT:
        use("shared", "write", SPLIT, field["src"], tokens * field["width"])
    elif code in (op.WKV4, op.WKV5, op.WKV7):
        width = field.get("width") or field["heads"] * field["size"]
        unit = field.get("size", 1)
        names = {op.WKV4: "rkv", op.WKV5: "rkvg", op.WKV7: "rkvwag"}[code]
        inputs = [field[name] for name in names] + [field.get("v_gate", NONE)]
        if field.get("per_token"):
            inputs.append(field["decay"])
        if field.get("v_gate", NONE) != NONE:
            inputs.append(field["v_first"])
        for start in inputs:
            if start != NONE:
                use("shared", "read", f"by {unit}", start, tokens * width)
        if code == op.WKV7 and field["v_gate"] != NONE:
            use("shared", "write", f"by {unit}", field["v"], tokens * width)
        use("shared", "write", f"by {unit}", field["dst"], tokens * width)
    elif code == op.LEVEL:
        use("private", "read", WHOLE, field["src"], tokens // 2 * field["rank"])
        use("private", "read", WHOLE, field["src_scale"], tokens)
        use(
            "shared",
            "write",
            f"by block of {field['rows']} rows",
            field["dst"],
            tokens * field["dst_stride"],
        )
    elif code == op.PREVIEW:
        use("private", "read", WHOLE, field["src"], tokens * field["cols"])
        use("shared", "write", "by row of the head", field["dst"], tokens * field["rows"])
        use("shared", "write", "by row of the head", field["scores"], tokens // 2 * field["rows"])
    elif code == op.CHOOSE:
        use("shared", "read", WHOLE, field["scores"], tokens // 2 * field["rows"])
        use("private", "write", WHOLE, field["dst"], tokens)
    elif code == op.EXACT:
        use("private", "read", WHOLE, field["src"], tokens // 2 * field["cols"])
        use("private", "read", WHOLE, field["lowest"], tokens)
        use(
            "shared",
            "read",
            "by unit of the head",
            field["scores"],
            tokens // 2 * field["dst_stride"],
        )
        use("shared", "write", "by unit of the head", field["dst"], tokens * field["dst_stride"])
    elif code == op.GATHER:
        use("shared", "read", WHOLE, field["src"], tokens * field["rows"])
    return used


def test_workspaces_hold_all_that_operations_use(program):
    size = {"shared": program.shared_bytes, "private": program.private_bytes}
    for code, field in operations(program):
        for place, _, _, first, end in spans(program, code, field):
            assert 0 < first < end <= size[place], (NAMES[code], field)
            assert first % 4 == 0 or field.get("kind") == op.INT8, "float32 must be aligned"


def test_weights_lie_in_the_file(program):
    starts = {tensor.offset: tensor for tensor in program.file.tensors.values()}
    for code, field in operations(program):
        at = [
            field[n]
            for n in (
                "weight",
                "scale",
                "codes",
                "table",
                "ranges",
                "ids",
                "wanted",
                "bias",
                "mu",
                "ln_weight",
                "ln_bias",
                "k_k",
                "k_a",
                "r_k",
            )
            if n in field
        ]
        at += [field[name] for name in ("bonus", "first") if name in field and code != op.EXACT]
        at += [] if field.get("per_token", code not in (op.WKV4, op.WKV5)) else [field["decay"]]
        for offset in at:
            if offset == NONE:
                continue
            tensor = starts[max(start for start in starts if start <= offset)]
            assert tensor.offset <= offset < tensor.offset + tensor.nbytes


def test_no_thread_reads_what_another_may_be_writing(program):
    since: list[tuple] = []
    for code, field in operations(program):
        if code in (op.SYNC, op.SELECT):  # threads meet in SELECT too
            since = []
            continue
        for place, access, how, first, end in spans(program, code, field):
            if place == "private":
                continue
            for other_code, other_access, other_how, other_first, other_end in since:
                if "write" in (access, other_access) and first < other_end and other_first < end:
                    same_part = (
                        how == other_how
                        and how != WHOLE
                        and (first, end) == (other_first, other_end)
                    )
                    assert same_part, (
                        f"{NAMES[other_code]} and {NAMES[code]} need a SYNC between them"
                    )
            since.append((code, access, how, first, end))


def test_quantised_activations_outlive_no_sync(program):
    """What QUANTIZE writes is in the private workspace until the next SYNC, and no two live ones overlap."""
    live: list[tuple[int, int]] = []
    for code, field in operations(program):
        if code == op.SYNC:
            live = []
        if code == op.QUANTIZE:
            new = (field["dst"], field["dst"] + 2 * MAX_TOKENS * field["width"])
            assert all(new[1] <= first or end <= new[0] for first, end in live)
            live.append(new)
        if code == op.MATMUL and field["kind"] == op.INT8:
            assert any(first <= field["src"] < end for first, end in live)


# Model files that are not what they say.


def refused(path: str, *words: str) -> FormatError:
    with pytest.raises(FormatError) as caught:
        tinyrwkv.load(path, backend="numpy")
    message = str(caught.value)
    assert path in message and "expected" in message
    for word in words:
        assert word in message, message
    return caught.value


needed = st.sampled_from(VERSIONS).flatmap(
    lambda arch: st.tuples(
        st.just(arch), st.sampled_from(DTYPES), st.sampled_from(list(tensor_shapes(shape_of(arch))))
    )
)
damages = {
    "missing": lambda array: None,
    "a row less": lambda array: array[:-1],
    "a column less": lambda array: np.ascontiguousarray(array[..., :-1]),
    "a row more": lambda array: np.concatenate([array, array[:1]]),
    "another dimension": lambda array: array[None],
    "one dimension": lambda array: np.concatenate([array.reshape(-1), array.reshape(-1)[:1]]),
    "another type": lambda array: array.view(np.uint8),
    "numbers of the same size": lambda array: array.view(
        {1: np.uint8, 2: np.int8, 4: np.int32}[array.itemsize]
    ),
}


@given(needed, st.sampled_from(list(damages)))
@settings(max_examples=60)
def test_a_damaged_tensor_is_named(tmp_path_factory, tiny, which, damage):
    arch, dtype, name = which
    shape = tensor_shapes(shape_of(arch))[name]
    if damage in ("a row less", "a row more") and isinstance(shape[0], str):
        return  # a rank that the file may choose: then its partner is refused, see below
    if damage == "a column less" and isinstance(shape[-1], str):
        return
    if damage == "a row less" and shape[0] == 1:
        return  # nothing would be left, which no file can hold

    def change(metadata, tensors):
        array = damages[damage](tensors.pop(name))
        if array is not None:
            tensors[name] = array

    path = rewrite(tiny(arch, dtype), tmp_path_factory.mktemp("damaged") / "a.trwkv", change)
    refused(path, f"'{name}'")


PREDICTORS = (
    "bundles",
    "bundles.key_scale",
    "predictor.signs",
    "predictor.threshold",
    "predictor.fc1.weight",
)
PREDICTORS += ("predictor.fc1.weight.scale", "predictor.fc2.weight", "predictor.mlp_threshold")


@pytest.mark.parametrize("damage", damages)
@pytest.mark.parametrize("part", PREDICTORS)
def test_a_damaged_predictor_is_named(tmp_path, tiny, part, damage):
    name = f"blocks.0.ffn.{part}"
    if part == "predictor.signs" and damage in ("another type", "numbers of the same size"):
        return  # they are of that type

    def change(metadata, tensors):
        if name.endswith("fc1.weight") and damage in (
            "a row less",
            "a row more",
        ):  # then its partner is refused
            tensors[name + ".scale"] = damages[damage](tensors[name + ".scale"])
        array = damages[damage](tensors.pop(name))
        if array is not None:
            tensors[name] = array

    message = "'blocks.0.ffn." + ("" if part in ("bundles", "predictor.fc1.weight") else part + "'")
    refused(rewrite(tiny("v5.2", form="networked"), tmp_path / "a.trwkv", change), message)


@pytest.mark.parametrize("arch", ["v6", "v7"])
def test_ranks_must_agree(tmp_path, tiny, arch):
    names = [
        name for name, shape in tensor_shapes(shape_of(arch)).items() if isinstance(shape[-1], str)
    ]
    assert names
    for i, name in enumerate(names):

        def change(metadata, tensors, name=name):
            tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])

        path = rewrite(tiny(arch, "f32"), tmp_path / f"{i}.trwkv", change)
        refused(path, name.rsplit(".", 2)[0].split(".")[1])


def test_five_ranks_in_one_matrix_must_be_equal(tmp_path, tiny):
    def change(metadata, tensors):
        name = "blocks.0.att.time_maa_w1.weight"
        tensors[name] = tensors[name][:-1]

    refused(rewrite(tiny("v6", "f32"), tmp_path / "a.trwkv", change), "time_maa_w1")

    def smaller(metadata, tensors):
        name = "blocks.0.att.time_maa_w1.weight"
        tensors[name] = tensors[name][:4]  # a fifth of it is no row

    refused(rewrite(tiny("v6", "f32"), tmp_path / "b.trwkv", smaller), "time_maa_w1")


@pytest.mark.parametrize(
    "damage",
    ["missing", "a row less", "a row more", "another dimension", "numbers of the same size"],
)
@pytest.mark.parametrize("name", ["emb.weight", "blocks.1.att.key.weight", "head.weight"])
def test_scales_must_fit_their_matrix(tmp_path, tiny, name, damage):
    def change(metadata, tensors):
        scale = damages[damage](tensors.pop(name + ".scale"))
        if scale is not None:
            tensors[name + ".scale"] = scale

    refused(rewrite(tiny("v5.2", "int8"), tmp_path / "a.trwkv", change), f"'{name}.scale'")


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.att.gate.weight",
        "blocks.2.ln1.weight",
        "surprise",
        "tokenizer.surprise",
        "emb.weight.scale.scale",
    ],
)
def test_an_unknown_tensor_is_named(tmp_path, tiny, name):
    def change(metadata, tensors):
        tensors[name] = np.zeros((64,), np.float32)

    refused(rewrite(tiny("v4", "int8"), tmp_path / "a.trwkv", change), f"'{name}'")


@pytest.mark.parametrize("name", ["head.weight.scale", "blocks.0.ln1.weight.scale"])
def test_a_scale_that_nothing_reads_is_unknown(tmp_path, tiny, name):
    def change(metadata, tensors):
        tensors[name] = np.zeros((3,), np.uint8)

    refused(rewrite(tiny("v4", "f16"), tmp_path / "a.trwkv", change), f"'{name}'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layer", 1),
        ("n_layer", 3),
        ("n_layer", 1 << 12),
        ("n_embd", 72),
        ("n_embd", 1 << 20),
        ("n_ffn", 95),
        ("n_ffn", 1 << 22),
        ("n_head", 5),
        ("n_head", 1 << 20),
        ("head_size", 8),
        ("head_size", 1 << 20),
        ("vocab_size", 299),
        ("vocab_size", 1 << 24),
        ("arch", "v7"),
        ("arch", "v5.0"),
        ("arch", "v4"),
        ("dtype", "f32"),
        ("dtype", "f16"),
    ],
)
def test_metadata_must_fit_the_tensors(tmp_path, tiny, key, value):
    path = rewrite(
        tiny("v6", "int8"),
        tmp_path / "a.trwkv",
        lambda metadata, tensors: metadata.update({key: value}),
    )
    refused(path)


@pytest.mark.parametrize("head_size", [1, 2, 4])
def test_heads_must_be_whole_vectors(tmp_path, tiny, head_size):
    def change(metadata, tensors):
        metadata.update(head_size=head_size, n_head=64 // head_size)

    refused(rewrite(tiny("v7", "int8"), tmp_path / "a.trwkv", change), "multiple of 8")


def test_a_state_is_no_model(tmp_path, load, backend):
    path = str(tmp_path / "state.trwkv")
    load(backend, "v7", "int8").new_state().save(path)
    refused(path, "state", "model")


def test_every_version_is_accepted_without_a_vocabulary(tmp_path, tiny):
    for arch in VERSIONS:
        metadata, tensors = read_tensors(tiny(arch, "f16"))
        tensors = {
            name: array for name, array in tensors.items() if not name.startswith("tokenizer.")
        }
        path = write_tensors(tmp_path / f"{arch}.trwkv", metadata, tensors)
        assert tinyrwkv.load(path, backend="numpy").forward([1])[0].shape == (300,)
