"""RWKV language models from one memory-mapped file, with nothing but Python and NumPy.

>>> import tinyrwkv
>>> model = tinyrwkv.load()
>>> logits, state = model.forward(model.tokenizer.encode("User: stop"))
>>> logits.shape
(4096,)
"""

from .errors import ArgumentError, ChecksumError, FormatError, TinyRWKVError, UnsupportedError
from .generate import Generation, Piece
from .model import Model, load
from .sampling import Sampler
from .state import State
from .tokenizer import StreamDecoder, Tokenizer

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ChecksumError",
    "FormatError",
    "Generation",
    "Model",
    "Piece",
    "Sampler",
    "State",
    "StreamDecoder",
    "TinyRWKVError",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "load",
]
