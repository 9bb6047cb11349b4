"""Read the pickle inside a .pth file: interpret the few opcodes that tensors need, run nothing."""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.table import show

# A real one has some hundred bytes per tensor. Each byte of a hostile one can cost about a hundred of memory.
MAX_PICKLE = 4 << 20

STORAGES = {
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
}
_ORDERED_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_GLOBALS = {*STORAGES, _ORDERED_DICT, _TENSOR, _PARAMETER}
_FIX = (
    "save the weights alone as a state dict of float32, float16 or bfloat16 tensors with torch.save"
)


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

    The opcodes are decoded by the standard library's disassembler, which runs nothing, and interpreted here. So a
    pickle that names any other global is refused by that name before anything has happened.

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
        raise UnsupportedError(
            path, "data.pkl", f"{len(data)} bytes", f"at most {MAX_PICKLE}", _FIX
        )
    try:
        return _Machine(path).run(data)
    except _Bad as error:
        found = str(error)
    except (
        *_DAMAGE,
        DeprecationWarning,
    ) as error:  # the warning is of an odd escape in a text, where it is an error
        found = f"a damaged pickle ({show(str(error))})"
    raise FormatError(path, "data.pkl", found, "a state dict as torch.save writes it", _FIX)


_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError)


class _Machine:
    """The stack machine: `stack` above the last mark, `below` the stacks under each mark.

    Values may share parts without end (a tuple of two of the same tuple, and so on), so none is ever printed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.pairs = 0  # that may still be put into an OrderedDict

    def run(self, data: bytes) -> Any:
        argument: Any
        self.pairs = len(data)
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                if len(self.stack) != 1 or self.below:
                    raise _Bad("leftovers on its stack")
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                if type(argument) is int and argument.bit_length() > 63:
                    raise _Bad("a number of more than 64 bits")
                self.stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            elif name not in ("PROTO", "FRAME"):
                self.step(name, argument)
        raise _Bad("no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "TUPLE":
            items = self.marked()
            self.stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise _Bad("too few items for a tuple")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("SETITEM", "SETITEMS"):
            items = self.marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self.set_items(self.stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            items = self.marked() if name == "APPENDS" else [stack.pop()]
            if type(self.stack[-1]) is not list:
                raise _Bad("an append to something else than a list")
            self.stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(self.find(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if type(attribute) is not str or type(module) is not str:
                raise _Bad("a global without a name")
            stack.append(self.find(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self.call(function, arguments))
        elif name == "BUILD":
            # Attributes of a state dict, such as _metadata: of no use here.
            stack.pop()
            if type(stack[-1]) is not dict:
                raise _Bad("attributes of something else than a dict")
        else:
            raise _Bad(f"the opcode {name}")

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

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
        expected = "only plain float32, float16 and bfloat16 tensors; nothing of it was run"
        raise UnsupportedError(
            self.path, "data.pkl", f"the global {show(name)[1:-1]}", expected, _FIX
        )

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Global or type(arguments) is not tuple:
            raise _Bad("a call of something else than a known global")
        if function.name == _ORDERED_DICT:
            return self.ordered(arguments[0] if arguments else ())
        if function.name == _PARAMETER and type(arguments[0]) is StoredTensor:
            return arguments[0]
        if function.name == _TENSOR:
            storage, offset, shape, stride = arguments[:4]
            numbers = [offset, *shape, *stride]
            if (
                type(storage) is Storage
                and len(shape) == len(stride) <= 8
                and all(type(n) is int for n in numbers)
            ):
                return StoredTensor(storage, offset, tuple(shape), tuple(stride))
        raise _Bad(f"unusual arguments of {function.name}")

    def ordered(self, pairs: Any) -> dict[Any, Any]:
        # Many calls may share one list, so that a small pickle would make any number of large dicts.
        self.pairs -= len(pairs)
        if self.pairs < 0:
            raise _Bad("more pairs than bytes")
        result: dict[Any, Any] = {}
        for pair in pairs:
            if len(pair) != 2:
                raise _Bad("items for something else than a dict")
            self.set_items(result, list(pair))
        return result


def _storage(identity: Any) -> Storage:
    """Return what a persistent id ``("storage", type, key, location, numel)`` stands for."""
    word, kind, key, _, numel = identity
    if (
        word != "storage"
        or type(kind) is not Global
        or type(key) is not str
        or type(numel) is not int
    ):
        raise _Bad("an unusual storage")
    if kind.name not in STORAGES:
        raise _Bad(f"a storage of type {kind.name}")
    return Storage(STORAGES[kind.name], key, numel)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
