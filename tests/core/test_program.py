"""Programs: offsets inside their memory, no races, and hostile model files refused by name."""

from __future__ import annotations

from typing import NamedTuple

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
from tinyrwkv.file.int4 import GROUP
from tinyrwkv.file.mapped import open_file
from tinyrwkv.kernels import abi as op
from tinyrwkv.kernels.abi import FIELDS, MAX_TOKENS, NAMES, NONE
from tinyrwkv.program.builder import qmax
from tinyrwkv.program.head import HEAD_ROWS
from tinyrwkv.program.program import Program
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import VERSIONS, tensor_shapes


def program_of(path: str) -> Program:
    return Program(open_file(path))


def operations(program: Program) -> list[tuple[int, dict[str, int]]]:
    """Return opcode and fields by name of each operation."""
    return [(one.opcode, one.fields._asdict()) for one in program.operations]


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
    (arch, dtype, form)
    for arch in VERSIONS
    for dtype in ("int8", "int4")
    for form in ("predicted", "networked", "previewed", "sorted")
]


@pytest.fixture(params=every_model, ids="-".join)
def program(request, tiny):
    return program_of(tiny(*request.param))


def test_the_table_is_the_rows(program):
    operations = program.operations
    assert program.table.dtype == np.int64 and program.table.shape == (len(operations), op.WIDTH)
    assert program.table.flags["C_CONTIGUOUS"]
    for row, operation in zip(program.table.tolist(), operations, strict=True):
        listed = [operation.opcode, *operation.fields]
        assert operation.fields._fields == FIELDS[operation.opcode]
        assert row == listed + [0] * (op.WIDTH - len(listed))
    lines = list(describe(program))
    assert len(lines) == len(operations)
    assert all(NAMES[one.opcode] in line for one, line in zip(operations, lines, strict=True))


def test_tokens_can_pause_where_threads_have_met(program):
    codes = [operation.opcode for operation in program.operations]
    assert codes[0] == op.EMBED and codes[1] == op.SYNC
    pauses = [i for i, operation in enumerate(program.operations) if operation.pausable]
    in_layers = [(i, program.operations[i]) for i in pauses if 1 < i < program.select]
    parts = [(operation.layer, operation.part) for _, operation in in_layers]
    layers = range(program.config["n_layer"])
    assert parts == [(i, part) for i in layers for part in ("time_mix", "channel_mix")]
    assert all(codes[i] == op.SYNC for i, _ in in_layers)
    assert in_layers[-1][0] + 1 == program.select and codes[program.select] == op.SELECT
    assert pauses[0] == 1 and pauses[-1] == len(codes) - 1


def test_every_operation_says_where_it_belongs(program):
    found = [(operation.part, operation.layer) for operation in program.operations]
    layers = [
        (part, i) for i in range(program.config["n_layer"]) for part in ("time_mix", "channel_mix")
    ]
    assert list(dict.fromkeys(found)) == [("embedding", None), *layers, ("head", None)]
    assert found == sorted(found, key=list(dict.fromkeys(found)).index)  # each part in one piece
    for operation in program.operations:
        if operation.layer is not None and operation.label:
            part = {"ln1": "time_mix", "att": "time_mix"}.get(
                operation.label.split(".")[2], "channel_mix"
            )
            assert (
                operation.label.startswith(f"blocks.{operation.layer}.") and operation.part == part
            )


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
    assert program.initial_state().tobytes() == expected.tobytes()


# What each operation uses of the workspaces. A use is whole, by every thread, or split: each thread
# has its part, and two operations that split the same place in the same way have the same parts.

WHOLE, SPLIT = "whole", "split"
TOKENS = 4 * MAX_TOKENS  # bytes of a float32 of each token


class Use(NamedTuple):
    """Bytes of a workspace that an operation reads or writes."""

    place: str
    access: str
    how: str
    first: int
    end: int


def read(place, how, first, size):
    return Use(place, "read", how, first, first + size)


def write(place, how, first, size):
    return Use(place, "write", how, first, first + size)


def uses_of_embed(f):
    yield write("shared", SPLIT, f["dst"], TOKENS * f["width"])


def uses_of_norm(f):
    yield read("shared", WHOLE, f["src"], TOKENS * f["width"])
    yield write("private", WHOLE, f["dst"], TOKENS * f["width"])


def uses_of_shift(f):
    yield read("private", WHOLE, f["src"], TOKENS * f["width"])
    yield write("private", WHOLE, f["dst"], TOKENS * f["width"] * f["count"])
    if f["delta"] != NONE:
        yield read("shared", WHOLE, f["delta"], TOKENS * f["width"] * f["count"])


def uses_of_quantize(f):
    extent = 4 * ((MAX_TOKENS - 1) * f["stride"] + f["width"])
    yield read("shared" if f["shared"] else "private", WHOLE, f["src"], extent)
    yield write("private", WHOLE, f["dst"], TOKENS // 2 * f["width"])
    yield write("private", WHOLE, f["dst_scale"], TOKENS)
    if f["dst_sums"] != NONE:
        yield write("private", WHOLE, f["dst_sums"], TOKENS * (f["width"] // GROUP))


def uses_of_product(f, how):
    rows = f["units"] * f["unit"]
    # The last token's part of a row ends before its stride does.
    item = 2 if f["kind"] in (op.INT8, op.INT4) else 4
    extent = item * ((MAX_TOKENS - 1) * f["stride"] + f["cols"])
    yield read("shared" if f["shared"] else "private", WHOLE, f["src"], extent)
    if f["src_scale"] != NONE:
        yield read("private", WHOLE, f["src_scale"], TOKENS)
    if f["mode"] != op.LOGITS and f["dst_stride"] == rows:
        yield write("shared", how, f["dst"], TOKENS * rows)
    elif f["mode"] != op.LOGITS:  # results of other rows lie between those of two tokens
        step = 4 * f["dst_stride"]
        places = range(f["dst"], f["dst"] + MAX_TOKENS * step, step)
        yield from (write("shared", how, place, 4 * rows) for place in places)
    if f["mode"] == op.MULTIPLY:
        yield read("shared", how, f["dst"], TOKENS * rows)
    if f["mode"] == op.GATED_ADD:
        yield read("shared", how, f["gate"], TOKENS * rows)
    if f["diag"] != NONE:
        yield read("private", WHOLE, f["diag_src"], TOKENS * rows)


def uses_of_sums(f):
    if f["kind"] == op.INT4:
        yield read("private", WHOLE, f["src_sums"], TOKENS * (f["cols"] // GROUP))


def uses_of_matmul(f):
    yield from uses_of_sums(f)
    yield from uses_of_product(f, f"by {f['unit']}")


def uses_of_predict(f):
    how = "by block of neurons"
    yield from uses_of_sums(f)
    yield from uses_of_product(f, how)
    yield write("private", WHOLE, f["sums"], 8 * f["cols"])
    if f["network"] != NONE:
        yield read("shared", how, f["network"], TOKENS * f["units"] * f["unit"])


def uses_of_sparse(f):
    yield from uses_of_product(f, f"by {f['unit']}")
    size = 12 * f["cols"] + 4 * f["units"] * f["unit"]
    yield write("private", WHOLE, f["list"], size)


def uses_of_wkv4(f):
    yield from (read("shared", "by 1", f[name], TOKENS * f["width"]) for name in "rkv")
    yield write("shared", "by 1", f["dst"], TOKENS * f["width"])


def uses_of_wkv5(f):
    how, size = f"by {f['size']}", TOKENS * f["heads"] * f["size"]
    places = [f[name] for name in "rkvg"]
    if f["per_token"]:
        places.append(f["decay"])
    yield from (read("shared", how, place, size) for place in places if place != NONE)
    yield write("shared", how, f["dst"], size)


def uses_of_wkv7(f):
    how, size = f"by {f['size']}", TOKENS * f["heads"] * f["size"]
    places = [f[name] for name in "rkvwag"]
    if f["v_gate"] != NONE:
        places += [f["v_gate"], f["v_first"]]
        yield write("shared", how, f["v"], size)
    yield from (read("shared", how, place, size) for place in places)
    yield write("shared", how, f["dst"], size)


def uses_of_select(f):
    yield write("shared", SPLIT, f["src"], TOKENS * f["width"])


def uses_of_sync(f):
    yield from ()


def uses_of_level(f):
    how = f"by block of {f['rows']} rows"
    yield read("private", WHOLE, f["src"], TOKENS // 2 * f["rank"])
    yield read("private", WHOLE, f["src_scale"], TOKENS)
    yield write("shared", how, f["dst"], TOKENS * f["dst_stride"])


def uses_of_preview(f):
    how = "by row of the head"
    yield read("private", WHOLE, f["src"], TOKENS * f["cols"])
    yield write("shared", how, f["dst"], TOKENS * f["rows"])
    yield write("shared", how, f["scores"], TOKENS // 2 * f["rows"])


def uses_of_choose(f):
    yield read("shared", WHOLE, f["scores"], TOKENS // 2 * f["rows"])
    yield write("private", WHOLE, f["dst"], TOKENS)


def uses_of_exact(f):
    how = "by unit of the head"
    yield read("private", WHOLE, f["src"], TOKENS // 2 * f["cols"])
    yield read("private", WHOLE, f["lowest"], TOKENS)
    yield from uses_of_sums(f)
    yield read("shared", how, f["scores"], TOKENS // 2 * f["dst_stride"])
    yield write("shared", how, f["dst"], TOKENS * f["dst_stride"])


def uses_of_gather(f):
    yield read("shared", WHOLE, f["src"], TOKENS * f["rows"])


def uses_of_deep(f):
    extent = 4 * ((MAX_TOKENS - 1) * f["stride"] + f["rows"])
    yield read("shared", WHOLE, f["src"], extent)
    yield write("shared", "by 1", f["dst"], TOKENS * f["cols"])


USES = {
    op.EMBED: uses_of_embed,
    op.NORM: uses_of_norm,
    op.SHIFT: uses_of_shift,
    op.QUANTIZE: uses_of_quantize,
    op.MATMUL: uses_of_matmul,
    op.PREDICT: uses_of_predict,
    op.SPARSE: uses_of_sparse,
    op.WKV4: uses_of_wkv4,
    op.WKV5: uses_of_wkv5,
    op.WKV7: uses_of_wkv7,
    op.SELECT: uses_of_select,
    op.SYNC: uses_of_sync,
    op.LEVEL: uses_of_level,
    op.PREVIEW: uses_of_preview,
    op.CHOOSE: uses_of_choose,
    op.EXACT: uses_of_exact,
    op.GATHER: uses_of_gather,
    op.DEEP: uses_of_deep,
}


def test_every_operation_tells_what_it_uses():
    assert USES.keys() == NAMES.keys()


def test_workspaces_hold_all_that_operations_use(program):
    size = {"shared": program.shared_bytes, "private": program.private_bytes}
    for code, field in operations(program):
        for place, _, _, first, end in USES[code](field):
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
        for place, access, how, first, end in USES[code](field):
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
    """What QUANTIZE writes stays until the next SYNC, and no two live ones overlap."""
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
    assert path in message and caught.value.found and caught.value.expected
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
    "another type": lambda array: array.view(np.int8 if array.dtype == np.uint8 else np.uint8),
    "numbers of the same size": lambda array: array.view(
        {"int8": np.uint8, "uint8": np.int8, "float16": np.int8}.get(array.dtype.name, np.int32)
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
    refused(path, "is a state, not a model; give the model")


def test_every_version_is_accepted_without_a_vocabulary(tmp_path, tiny):
    for arch in VERSIONS:
        metadata, tensors = read_tensors(tiny(arch, "f16"))
        tensors = {
            name: array for name, array in tensors.items() if not name.startswith("tokenizer.")
        }
        path = write_tensors(tmp_path / f"{arch}.trwkv", metadata, tensors)
        assert tinyrwkv.load(path, backend="numpy").forward([1])[0].shape == (300,)
