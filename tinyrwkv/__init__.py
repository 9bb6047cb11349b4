"""RWKV language models from one memory-mapped file, with nothing but Python and NumPy.

>>> import tinyrwkv
>>> model = tinyrwkv.load()
>>> logits, state = model.forward(model.tokenizer.encode("User: stop"))
>>> logits.shape
(4096,)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import starting  # noqa: F401, before what takes time
from . import state_file as _state_file
from .errors import ArgumentError, ChecksumError, FormatError, TinyRWKVError, UnsupportedError
from .generate import Generation, Piece, Result
from .loading import load
from .model import Model
from .sampling import Sampler
from .score import Scored
from .speculate import start as _start_speculation
from .state import State
from .tokenizer import StreamDecoder, Tokenizer
from .version import VERSION as __version__

if TYPE_CHECKING:  # `__getattr__` imports them; none of them imports this module
    from .chat.chat import Chat
    from .constraints import Choice, JsonSchema, Regex

Generation.speculate = staticmethod(_start_speculation)
State.files = _state_file

__all__ = [
    "ArgumentError",
    "Chat",
    "ChecksumError",
    "Choice",
    "FormatError",
    "Generation",
    "JsonSchema",
    "Model",
    "Piece",
    "Regex",
    "Result",
    "Sampler",
    "Scored",
    "State",
    "StreamDecoder",
    "TinyRWKVError",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "load",
]

_LATER = {
    "Chat": ".chat.chat",
    "Choice": ".constraints",
    "JsonSchema": ".constraints",
    "Regex": ".constraints",
}
"""What is loaded when it is asked for, and from where: the rest runs without it."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
