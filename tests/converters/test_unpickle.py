"""The interpreter of pickles: it reads what Python's own pickler writes, and runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tracemalloc
import types
import warnings
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.read.unpickle import MAX_PICKLE, Storage, StoredTensor, unpickle
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for the names of torch that a checkpoint refers to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *args: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


class Tensor:
    def __init__(self, torch, kind, key, numel, *view, parameter=False):
        self.torch, self.identity, self.view, self.parameter = (
            torch,
            ("storage", kind, key, "cpu", numel),
            view,
            parameter,
        )

    def __reduce__(self):
        class Stored:
            identity = self.identity

        utils = self.torch._utils
        arguments = (Stored(), *self.view, False, OrderedDict())
        if self.parameter:
            inner = Tensor(
                self.torch, self.identity[1], self.identity[2], self.identity[4], *self.view
            )
            return utils._rebuild_parameter, (inner, True, OrderedDict())
        return utils._rebuild_tensor_v2, arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, x):
        return getattr(x, "identity", None) if type(x).__name__ == "Stored" else None


def dumps(x, protocol=2):
    out = io.BytesIO()
    Pickler(out, protocol).dump(x)
    return out.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_python_pickles(torch, protocol):
    state = OrderedDict(
        a=Tensor(torch, torch.FloatStorage, "0", 12, 0, (3, 4), (4, 1)),
        b=Tensor(
            torch,
            torch.BFloat16Storage,
            "1",
            70000,
            300,
            (2, 200, 3, 5),
            (3000, 15, 5, 1),
            parameter=True,
        ),
        c=Tensor(torch, torch.HalfStorage, "0", 1 << 40, 0, (), ()),
    )
    state._metadata = OrderedDict([("", {"version": 1})])
    whole = {
        "state_dict": state,
        "epoch": 3,
        "rate": [0.5, None, True],
        "more": (1, -2, 70000, 1 << 40),
    }
    found = unpickle("a.pth", dumps(whole, protocol))
    assert found["state_dict"] == {
        "a": StoredTensor(Storage("F32", "0", 12), 0, (3, 4), (4, 1)),
        "b": StoredTensor(Storage("BF16", "1", 70000), 300, (2, 200, 3, 5), (3000, 15, 5, 1)),
        "c": StoredTensor(Storage("F16", "0", 1 << 40), 0, (), ()),
    }
    assert (found["epoch"], found["rate"], found["more"]) == (
        3,
        [0.5, None, True],
        (1, -2, 70000, 1 << 40),
    )


def test_a_view_may_have_eight_dimensions_and_no_more(torch):
    def tensor(count):
        return Tensor(torch, torch.FloatStorage, "0", 1, 0, (1,) * count, (1,) * count)

    assert unpickle("a.pth", dumps(tensor(8))).shape == (1,) * 8
    with pytest.raises(FormatError, match="unusual arguments"):
        unpickle("a.pth", dumps(tensor(9)))


def test_a_number_may_have_64_bits_and_no_more():
    for number in (2**63 - 1, 1 - 2**63):
        assert unpickle("a.pth", dumps(number)) == number
    for number in (2**63, -(2**63)):
        with pytest.raises(FormatError, match="more than 64 bits"):
            unpickle("a.pth", dumps(number))


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_foreign_global_is_refused_by_name_and_not_run(tmp_path, protocol):
    mark = tmp_path / "mark"
    for function, arguments, name in (
        (os.mkdir, (str(mark),), "mkdir"),
        (eval, ("1",), "eval"),
        (pickle.loads, (b"",), "loads"),
    ):
        with pytest.raises(
            UnsupportedError, match=rf"the global \w+\.{name}; nothing of it was run"
        ):
            unpickle("a.pth", dumps({"a": Evil(function, *arguments)}, protocol))
    assert not mark.exists()


def test_other_storages_are_refused_by_name(torch):
    data = dumps({"a": Tensor(torch, torch.LongStorage, "0", 12, 0, (3, 4), (4, 1))})
    with pytest.raises(UnsupportedError, match=r"the global torch\.LongStorage"):
        unpickle("a.pth", data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "a damaged pickle"),
        (b"\x80\x02}", "no end|damaged"),
        (b"\x80\x02.", "leftovers"),
        (b"\x80\x02}}.", "leftovers"),
        (b"\x80\x02](.", "leftovers"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02K\1K\2\x87.", "too few"),
        (b"\x80\x02]K\1K\2s.", "items for something else"),
        (b"\x80\x02}(K\1u.", "items for something else"),
        (b"\x80\x02}]K\2s.", "a key of type list"),
        (b"\x80\x02K\1K\2a.", "an append"),
        (b"\x80\x02K\1K\2b.", "attributes"),
        (b"\x80\x02K\1)R.", "a call of something else"),
        (b"\x80\x02h\7.", "damaged"),
        (b"\x80\x02K\1Q.", "damaged"),
        (b"\x80\x02(X\1\0\0\0aX\1\0\0\0bX\1\0\0\0bX\1\0\0\0bK\1tQ.", "an unusual storage"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\1K\1K\1K\1tR.",
            "damaged|unusual arguments",
        ),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\1tR.", "unusual arguments"),
        (b"\x80\x02K\1K\2\x93.", "a global without a name"),
        (b"\x80\x02\x8b" + (100).to_bytes(4, "little") + b"\1" * 100 + b".", "more than 64 bits"),
        (b"I1\n.", "the opcode INT"),
        (b"\x80\x02c__builtin__\nset\n]\x85R.", "the global __builtin__.set"),
        (b"<!DOCTYPE html>", "damaged|opcode"),
    ],
)
def test_what_torch_does_not_write_is_refused(data, found):
    with pytest.raises(TinyRWKVError, match=found):
        unpickle("a.pth", data)


@pytest.mark.parametrize("module", [b"\\", b"a\\E", b"\\x", b"\\N{"])
def test_a_name_with_an_escape_that_python_does_not_have_gives_no_warning(module):
    data = b"\x80\x02c" + module + b"\nb\n."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedError, match="refers to the global"):
            unpickle("a.pth", data)


def test_a_name_that_is_cut_is_refused():
    for data in (b"ccollections", b"ccollections\nOrdered", b"c\xff\nb\n."):
        with pytest.raises(FormatError, match="damaged pickle"):
            unpickle("a.pth", data)


def test_bombs_stay_small():
    # Each tuple holds the one before twice: 2^60 leaves, were one to look at them.
    shared = b"\x80\x02)" + b"q\1h\1\x86" * 60 + b"."
    huge_index = b"\x80\x02}r\xff\xff\xff\xff."
    long_text = b"\x80\x02X\xff\xff\xff\x7fabc."
    longer_text = b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0fabc."
    tracemalloc.start()
    unpickle("a.pth", shared)
    unpickle("a.pth", huge_index)
    for data in (long_text, longer_text):
        with pytest.raises(FormatError):
            unpickle("a.pth", data)
    with pytest.raises(UnsupportedError, match="at most"):
        unpickle("a.pth", bytes(MAX_PICKLE + 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_PICKLE + (1 << 20)


@pytest.mark.parametrize("shared", ["pairs", "one pair"])
def test_calls_that_share_their_arguments_stay_small(shared):
    pair = b"](" + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(2000)) + b"e"
    pairs = b"](" + b"".join(b"J" + i.to_bytes(4, "little") + b"N\x86" for i in range(2000)) + b"e"
    argument = pairs if shared == "pairs" else b"](" + pair + b"e"
    calls = b"h\0h\1R" * 1000
    data = b"\x80\2(ccollections\nOrderedDict\nq\0" + argument + b"\x85q\1" + calls + b"t."
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"more pairs than bytes|items for something else"):
        unpickle("a.pth", data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(data)


def test_an_opcode_that_is_not_needed_is_refused_before_its_argument_is_read():
    digits = b"\x80\2L" + b"7" * 5000 + b"L\n."
    with pytest.raises(FormatError, match="the opcode LONG"):
        unpickle("a.pth", digits)


OPCODES = st.sampled_from(
    [bytes([code]) for code in b"}]()tub.RsaQqhKMJXc\x85\x86\x87\x88\x89N\x8a\x93\x94("]
)


@given(st.lists(st.one_of(OPCODES, st.binary(max_size=4)), max_size=30))
def test_any_bytes_give_a_result_or_an_error(parts):
    try:
        unpickle("a.pth", b"\x80\x02" + b"".join(parts) + b".")
    except TinyRWKVError as error:
        assert str(error).startswith("a.pth: data.pkl ")
        assert (error.file, error.object) == ("a.pth", "data.pkl")
