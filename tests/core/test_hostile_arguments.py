"""Whatever a caller gives, the API does it or says in a TinyRWKVError what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tinyrwkv import (
    Choice,
    JsonSchema,
    Model,
    Regex,
    Sampler,
    State,
    StreamDecoder,
    TinyRWKVError,
    Tokenizer,
)
from tinyrwkv.errors import show
from tinyrwkv.robot.scripts import Names, Number, Scripts


class Broken:
    """Every special method raises what nobody expects."""

    def fail(self, *_: Any) -> Any:
        raise ZeroDivisionError("a class of the caller")

    __repr__ = __str__ = __len__ = __iter__ = __index__ = __float__ = __int__ = fail
    __eq__ = __lt__ = __bool__ = __array__ = __fspath__ = __getitem__ = fail
    __hash__ = object.__hash__


class BrokenList(list):
    __repr__ = Broken.fail
    __len__ = Broken.fail


class BrokenInt(int):
    __repr__ = __index__ = __int__ = Broken.fail


class WrongLength:
    """Says that it is long, and yields one token."""

    def __len__(self) -> int:
        return -1

    def __iter__(self) -> Iterator[int]:
        yield 1


def row_of(value: Any) -> np.ndarray:
    row = np.empty(2, object)
    row[0] = value
    return row


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)
RECURSIVE_SCHEMA: dict[str, Any] = {"type": "array"}
RECURSIVE_SCHEMA["items"] = RECURSIVE_SCHEMA
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]

ODD: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "an object": object,
    "a class": lambda: int,
    "a function": lambda: print,
    "a truth value": lambda: True,
    "400 digits": lambda: 10**400,
    "5,000 digits": lambda: 10**5000,
    "5,000 digits below 0": lambda: -(10**5000),
    "a list of 5,000 digits": lambda: [10**5000],
    "2**63": lambda: 2**63,
    "a small number": lambda: -1,
    "a fraction": lambda: 0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "a complex number": lambda: 1j,
    "a long Decimal": lambda: Decimal(10) ** 5000,
    "a Decimal nan": lambda: Decimal("sNaN"),
    "an empty text": lambda: "",
    "a text": lambda: "abc",
    "a lone surrogate": lambda: "a\ud800",
    "an escaped byte": lambda: "a\udcff",
    "a null character": lambda: "a\0b",
    "a bad pattern": lambda: "(((a{999}){999}){999}",
    "bytes": lambda: b"abc\xff",
    "a bytearray": lambda: bytearray(b"abc"),
    "a memoryview": lambda: memoryview(b"abc"),
    "an empty list": list,
    "a list of lists": lambda: [[1], [2, 3]],
    "a list of nothing": lambda: [None],
    "a list of texts": lambda: ["a", ""],
    "a list of fractions": lambda: [1.5, math.nan],
    "a mapping": lambda: {"a": 1},
    "a mapping of numbers": lambda: {10**5000: 10**5000},
    "a set": lambda: {1, 2},
    "a list that holds itself": lambda: RECURSIVE,
    "a schema that holds itself": lambda: RECURSIVE_SCHEMA,
    "a deep list": lambda: DEEP,
    "a schema of 5,000 digits": lambda: {"type": "integer", "minimum": 10**5000},
    "a schema of many": lambda: {"type": "string", "minLength": 10**5000},
    "a schema of a value": lambda: {"enum": [10**5000, Broken()]},
    "no numbers": lambda: np.zeros(0, np.int64),
    "one number": lambda: np.array(3),
    "a row of int64": lambda: np.arange(3),
    "a row of uint64": lambda: np.array([2**64 - 1], np.uint64),
    "a row of float16": lambda: np.ones(3, np.float16),
    "a row of nan": lambda: np.full(300, np.nan, np.float32),
    "a row of -inf": lambda: np.full(300, -np.inf),
    "a row of 300": lambda: np.zeros(300, np.float32),
    "a row of large float64": lambda: np.full(300, 1e300),
    "a row of complex": lambda: np.ones(300, complex),
    "a row of bool": lambda: np.ones(3, bool),
    "a row of objects": lambda: row_of(Broken()),
    "a row of texts": lambda: np.array(["a", "b"]),
    "a row of records": lambda: np.zeros(2, "i4,f8"),
    "a row of dates": lambda: np.zeros(2, "M8[s]"),
    "many dimensions": lambda: np.zeros((1, 2, 3)),
    "a strided row": lambda: np.zeros(600, np.float32)[::2],
    "a broken object": Broken,
    "a broken list": lambda: BrokenList([1]),
    "a broken number": lambda: BrokenInt(1),
    "a list of broken objects": lambda: [1, Broken()],
    "a wrong length": WrongLength,
}


CALLS: dict[str, Callable[[Model, Any], object]] = {
    "load path": lambda model, odd: odd is not None and tinyrwkv.load(odd),
    **{
        f"load {name}": lambda model, odd, name=name: tinyrwkv.load(
            model.path, **{"backend": "numpy", name: odd}
        )
        for name in ("backend", "threads", "resident_limit", "verify", "prefault", "lock", "copy")
    },
    "forward tokens": lambda model, odd: model.forward(odd),
    "forward state": lambda model, odd: model.forward([1], odd),
    "forward logits": lambda model, odd: model.forward([1], logits=odd),
    "forward states": lambda model, odd: model.forward([1], states=odd),
    "generate prompt": lambda model, odd: model.generate(odd, max_tokens=1).text(),
    **{
        f"generate {name}": lambda model, odd, name=name: model.generate(
            "a", **{"max_tokens": 2, "timeout": 5, name: odd}
        ).text()
        for name in ("state", "sampler", "max_tokens", "stop", "timeout", "constraint")
        if name != "max_tokens"
    },
    "generate max_tokens": lambda model, odd: model.generate("a", max_tokens=odd),
    "generate deadline": lambda model, odd: model.generate("a", deadline=odd),
    "score prompt": lambda model, odd: model.score(odd, ["a"]),
    "score choices": lambda model, odd: model.score("a", odd),
    "score state": lambda model, odd: model.score("a", ["a"], odd),
    "exact_logits ids": lambda model, odd: model.exact_logits(
        odd, np.zeros(300, np.float32), np.zeros(65, np.float32)
    ),
    "exact_logits logits": lambda model, odd: model.exact_logits([1], odd, odd),
    "encode": lambda model, odd: model.tokenizer.encode(odd),
    "decode": lambda model, odd: model.tokenizer.decode(odd),
    "decode_bytes": lambda model, odd: model.tokenizer.decode_bytes(odd),
    "token_bytes": lambda model, odd: model.tokenizer.token_bytes(odd),
    "Tokenizer data": lambda model, odd: Tokenizer(odd, np.arange(2), np.arange(1), 300),
    "Tokenizer starts": lambda model, odd: Tokenizer(b"a", odd, odd, 300),
    "Tokenizer vocab_size": lambda model, odd: Tokenizer(
        *(model.file[f"tokenizer.{name}"] for name in ("bytes", "starts", "ids")), odd
    ),
    "push": lambda model, odd: StreamDecoder().push(odd),
    **{
        f"Sampler {name}": lambda model, odd, name=name: Sampler(**{name: odd})
        for name in Sampler.__dataclass_fields__
    },
    "sample": lambda model, odd: Sampler(temperature=0.7, top_k=5).sample(odd),
    "probabilities": lambda model, odd: Sampler(presence_penalty=1).probabilities(odd),
    "top logits": lambda model, odd: Sampler().top(odd),
    "top n": lambda model, odd: Sampler().top(np.zeros(3), odd),
    "accept": lambda model, odd: Sampler(presence_penalty=1).accept(odd),
    "State.load path": lambda model, odd: State.load(odd, model),
    "State.load model": lambda model, odd: State.load("a", odd),
    "state data": lambda model, odd: model.forward([1], State(odd, 0, model.origin)),
    "state tokens": lambda model, odd: model.forward(
        [1], State(model.new_state().data, odd, model.origin)
    ),
    "state origin": lambda model, odd: model.forward([1], State(model.new_state().data, 0, odd)),
    "Choice": lambda model, odd: Choice(odd),
    "Regex": lambda model, odd: Regex(odd),
    "Regex prefix": lambda model, odd: Regex("a", prefix=odd),
    "JsonSchema": lambda model, odd: JsonSchema(odd),
    "JsonSchema enum": lambda model, odd: JsonSchema({"enum": odd}),
    "JsonSchema const": lambda model, odd: JsonSchema({"const": odd}),
    **{
        f"JsonSchema {name}": lambda model, odd, name=name, kind=kind: JsonSchema(
            {"type": kind, name: odd, **({} if name == "items" else {"items": {"type": "null"}})}
            if kind == "array"
            else {"type": kind, name: odd}
        )
        for kind, names in {
            "string": ("minLength", "maxLength", "pattern"),
            "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
            "array": ("items", "minItems", "maxItems"),
            "object": ("properties", "required", "additionalProperties"),
        }.items()
        for name in names
    },
    "after": lambda model, odd: Regex("a*").after(odd),
    "matches": lambda model, odd: Regex("a*").matches(odd),
    "prepare model": lambda model, odd: Regex("a*").prepare(odd),
    "prepare most": lambda model, odd: Regex("a*").prepare(model, odd),
    "start": lambda model, odd: Regex("a*").start(odd),
    "Number low": lambda model, odd: Number(odd, 3).pattern,
    "Number high": lambda model, odd: Number(0, odd).pattern,
    "Number decimals": lambda model, odd: Scripts({"a": Number(0, 1, odd)}),
    "Names": lambda model, odd: Names(odd),
    "Scripts": lambda model, odd: Scripts(odd),
    "Scripts argument": lambda model, odd: Scripts({"a": odd}),
    "Scripts.parse": lambda model, odd: Scripts().parse(odd),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", CALLS)
def test_an_odd_argument_is_used_or_refused(load, call):
    model = load("numpy")
    for name, odd in ODD.items():
        try:
            CALLS[call](model, odd())
        except TinyRWKVError as error:
            assert str(error) and "\n" not in error.found, name
        except BaseException as error:
            pytest.fail(f"{call}, {name}: {type(error).__name__}: {str(error)[:200]}")


@given(st.integers(0, 10**6), st.sampled_from(sorted(CALLS)), st.data())
@settings(max_examples=200)
def test_odd_arguments_inside_of_others_are_refused(load, size, call, data):
    odd = ODD[data.draw(st.sampled_from(sorted(ODD)))]()
    around = data.draw(st.sampled_from([lambda x: [x, x], lambda x: (1, x), lambda x: {"a": x}]))
    try:
        CALLS[call](load("numpy"), around(odd))
    except TinyRWKVError:
        pass


def test_what_an_iterator_of_the_caller_raises_is_passed_on(load):
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("in the caller's own iterator")

    for call in (load("numpy").forward, load("numpy").generate, Choice):
        with pytest.raises(KeyError, match="own iterator"):
            call(failing())


@pytest.mark.parametrize("kind", [TimeoutError, TypeError, ValueError, KeyboardInterrupt])
def test_what_a_handler_of_signals_raises_is_not_taken_for_a_wrong_argument(load, kind):
    class Alarmed(list):
        """Stands for a list during whose conversion a signal comes."""

        def __iter__(self) -> Iterator[int]:
            if not alarms:
                alarms.append(1)
                raise kind("the alarm")
            return super().__iter__()

    model = load("numpy")
    for call in (model.forward, model.generate, model.tokenizer.decode):
        alarms: list[int] = []
        with pytest.raises(kind, match="the alarm"):
            call(Alarmed([1, 2]))


def test_an_iterator_is_not_asked_again_after_an_alarm(load):
    class Slow:
        """Stands for an iterator without an end, during which an alarm comes."""

        asked = 0

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            self.asked += 1
            if self.asked == 2:
                raise TimeoutError("the alarm")
            if self.asked > 2:
                raise StopIteration
            return 1

    for call in (load("numpy").forward, load("numpy").generate, load("numpy").tokenizer.decode):
        slow = Slow()
        with pytest.raises(TimeoutError, match="the alarm"):
            call(slow)
        assert slow.asked == 2


@pytest.mark.parametrize("name", ODD)
def test_everything_can_be_shown(name):
    shown = show(ODD[name]())
    assert len(shown) <= 80 and shown.isascii() and "\n" not in shown
