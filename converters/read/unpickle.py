"""Read the pickle inside a .pth file: interpret the few opcodes that tensors need, run nothing."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError, show

# A real one has about a hundred bytes for each tensor. A hostile one can take about a hundred bytes
# of memory for each of its own.
MAX_PICKLE = 4 << 20
MAX_DIMENSIONS = 8

STORAGES = {
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_GLOBALS = {*STORAGES, _ORDERED_DICT, _TENSOR, _PARAMETER}
_FIX = (
    "save the weights alone as a state dict of float32, float16 or bfloat16 tensors with torch.save"
)


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class Global(NamedTuple):
    """A name that the pickle refers to; it stays a name."""

    name: str


class Storage(NamedTuple):
    """A run of numbers in the archive: member ``data/<key>``, of `kind` F32, F16 or BF16."""

    kind: str
    key: str
    numel: int


class StoredTensor(NamedTuple):
    """A view into a storage: offset, shape and stride in elements, checked against nothing yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Bad(Exception):
    """Something that torch.save would not have written; the text says what."""


def unpickle(path: str, data: bytes) -> Any:
    """Return the object in `data`: dicts, lists, tuples, strings, numbers and `StoredTensor`.

    The standard library's disassembler decodes the arguments of opcodes and runs nothing; they are
    interpreted here. A pickle that names a global which plain tensors do not need is refused with
    that name.

    Parameters
    ----------
    path : str
        For messages.
    data : bytes

    Raises
    ------
    UnsupportedError
        A global other than those of plain tensors.
    FormatError
        Not a pickle, a cut one, or one that torch.save does not write.
    """
    if len(data) > MAX_PICKLE:
        found, expected = f"{len(data)} bytes", f"at most {MAX_PICKLE}"
        sentence = f"{path}: data.pkl has {found}; {expected} can be read"
        raise UnsupportedError(path, "data.pkl", found, expected, _FIX, sentence)
    try:
        return _Machine(path).run(data)
    except _Bad as error:
        found = str(error)
    except _DAMAGE as error:
        found = f"a damaged pickle ({show(str(error))})"
    expected = "a state dict as torch.save writes it"
    sentence = f"{path}: data.pkl is not {expected}: found {found}"
    raise FormatError(path, "data.pkl", found, expected, _FIX, sentence)


_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError)


def _argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    """Read the argument of an opcode; None if it has none."""
    if opcode.name == "GLOBAL":
        # The disassembler decodes escapes, with a warning about those that Python does not have.
        return " ".join(_line(stream) for _ in range(2))
    return None if opcode.arg is None else opcode.arg.reader(stream)


def _line(stream: io.BytesIO) -> str:
    """Read a name and the end of its line."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise _Bad("a damaged pickle (a name without an end)")
    return line[:-1].decode("ascii")


class _Machine:
    """The stack machine: `stack` above the last mark, `below` the stacks under each mark.

    A method that stands in `_STEPS` does one opcode; it gets the argument of the opcode. Values may
    share parts without end (a tuple of two of the same tuple, and so on), so none is ever printed,
    and none is walked through unless it is short or what it costs is counted.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.pairs = 0  # that may still be put into an OrderedDict

    def run(self, data: bytes) -> Any:
        """Return what the pickle leaves on the stack."""
        self.pairs = len(data)
        stream = io.BytesIO(data)
        while code := stream.read(1):
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise _Bad(f"the unknown opcode {code!r}")
            if opcode.name == "STOP":
                if len(self.stack) != 1 or self.below:
                    raise _Bad("leftovers on its stack")
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:  # its argument stays unread: decoding one may take quadratic time
                raise _Bad(f"the opcode {opcode.name}")
            step(self, _argument(opcode, stream))
        raise _Bad("a damaged pickle without an end")

    def ignore(self, argument: Any) -> None:
        pass

    def literal(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > 63:
            raise _Bad("a number of more than 64 bits")
        self.stack.append(value)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def memoize(self, argument: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def mark(self, argument: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Return the items above the last mark, and take the mark away."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def marked_tuple(self, argument: None) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def short_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise _Bad("too few items for a tuple")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def set_item(self, argument: None) -> None:
        key, value = self.stack.pop(-2), self.stack.pop()
        self.set_items(self.stack[-1], [key, value])

    def set_marked(self, argument: None) -> None:
        items = self.marked()
        self.set_items(self.stack[-1], items)

    def append(self, argument: None) -> None:
        item = self.stack.pop()
        self.extend([item])

    def append_marked(self, argument: None) -> None:
        items = self.marked()
        self.extend(items)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Bad("an append to something else than a list")
        self.stack[-1].extend(items)

    def named_global(self, words: str) -> None:
        self.stack.append(self.find(words.replace(" ", ".", 1)))

    def stacked_global(self, argument: None) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if type(attribute) is not str or type(module) is not str:
            raise _Bad("a global without a name")
        self.stack.append(self.find(f"{module}.{attribute}"))

    def persistent_id(self, argument: None) -> None:
        self.stack.append(_storage(self.stack.pop()))

    def reduce(self, argument: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))

    def build(self, argument: None) -> None:
        # Attributes of a state dict, such as _metadata: of no use here.
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise _Bad("attributes of something else than a dict")

    def set_items(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict or len(items) % 2:
            raise _Bad("items for something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise _Bad(f"a key of type {type(key).__name__}")
            target[key] = value

    def find(self, name: str) -> Global:
        if name in _GLOBALS:
            return Global(name)
        found = f"the global {show(name)[1:-1]}"
        expected = "only plain float32, float16 and bfloat16 tensors"
        sentence = f"{self.path}: data.pkl refers to {found}; nothing of it was run"
        raise UnsupportedError(self.path, "data.pkl", found, expected, _FIX, sentence)

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Global or type(arguments) is not tuple:
            raise _Bad("a call of something else than a known global")
        if function.name == _ORDERED_DICT:
            return self.ordered(arguments[0] if arguments else ())
        if function.name == _PARAMETER and type(arguments[0]) is StoredTensor:
            return arguments[0]
        if function.name == _TENSOR:
            storage, offset, shape, stride = arguments[:4]
            is_placed = type(storage) is Storage and type(offset) is int
            if is_placed and _are_sizes(shape) and _are_sizes(stride) and len(shape) == len(stride):
                return StoredTensor(storage, offset, shape, stride)
        raise _Bad(f"unusual arguments of {function.name}")

    def ordered(self, pairs: Any) -> dict[Any, Any]:
        # Many calls may share one list: a small pickle could make any number of large dicts.
        self.pairs -= len(pairs)
        if self.pairs < 0:
            raise _Bad("more pairs than bytes")
        result: dict[Any, Any] = {}
        for pair in pairs:
            if len(pair) != 2:
                raise _Bad("items for something else than a dict")
            self.set_items(result, list(pair))
        return result


def _are_sizes(value: Any) -> bool:
    """Tell whether a value is a short tuple of whole numbers."""
    # Any number of tensors may share one long tuple, so its length is looked at first.
    is_short = type(value) is tuple and len(value) <= MAX_DIMENSIONS
    return is_short and all(type(n) is int for n in value)


def _storage(identity: Any) -> Storage:
    """Return what a persistent id ``("storage", type, key, location, numel)`` stands for."""
    word, kind, key, _, numel = identity
    typed = type(kind) is Global and type(key) is str and type(numel) is int
    if word != "storage" or not typed:
        raise _Bad("an unusual storage")
    if kind.name not in STORAGES:
        raise _Bad(f"a storage of type {kind.name}")
    return Storage(STORAGES[kind.name], key, numel)


_Step = Callable[[_Machine, Any], None]


def _constant(value: Any) -> _Step:
    return lambda machine, argument: machine.stack.append(value)


_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
# All opcodes that a checkpoint needs; a pickle with any other is refused.
_STEPS: dict[str, _Step] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, argument: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, argument: machine.stack.append([]),
    **dict.fromkeys(_LITERALS, _Machine.literal),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda machine, argument: machine.short_tuple(1),
    "TUPLE2": lambda machine, argument: machine.short_tuple(2),
    "TUPLE3": lambda machine, argument: machine.short_tuple(3),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_marked,
    "GLOBAL": _Machine.named_global,
    "STACK_GLOBAL": _Machine.stacked_global,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
