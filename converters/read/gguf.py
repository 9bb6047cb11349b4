"""Read GGUF files of llama.cpp: typed settings, a table of tensors, aligned data.

The architectures rwkv6 and rwkv7 can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinyrwkv.errors import UnsupportedError, show

from . import ggml, gguf_vocab
from .gguf_header import MAGIC, Header, read_header, read_table
from .gguf_parts import check_total, read_parts
from .source import About, InputFile, Source, SourceTensor, Stated, check_count

__all__ = ["ARCHITECTURES", "MAGIC", "read_gguf"]

ARCHITECTURES = ("rwkv6", "rwkv7")

# What the settings say about sizes that the tensors have.
_STATED = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_ffn",
    "wkv.head_size": "head_size",
    "vocab_size": "vocab_size",
    "attention.layer_norm_epsilon": "ln_eps",
}


def read_gguf(file: InputFile, open_file: Callable[[str], InputFile]) -> Source:
    """Open a .gguf file, or a model in several of them; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile
        The file, or any part of a model that is split.
    open_file : callable
        Opens another part by its path.

    Returns
    -------
    Source

    Raises
    ------
    FormatError
        A file is cut or damaged, or a part is missing.
    UnsupportedError
        Another architecture, or a tensor of a type that can't be read; both by name.
    """
    headers = read_parts(read_header(file), open_file)
    about = _about(headers[0])
    tensors: dict[str, SourceTensor] = {}
    for header in headers:
        for name, tensor in read_table(header).items():
            if name in tensors:
                raise ggml.same_name(header.file, name)
            tensors[name] = tensor
        check_count(file.path, len(tensors))
    check_total(headers, len(tensors))
    return Source(file.path, [header.file for header in headers], "gguf", tensors, about)


def _about(header: Header) -> About:
    """Return the settings that matter here; refuse architectures that can't be read."""
    path, settings = header.file.path, header.settings
    arch = settings.get("general.architecture")
    if arch not in ARCHITECTURES:
        fix = "give an RWKV-6 or RWKV-7 file"
        found, expected = show(arch), " or ".join(ARCHITECTURES)
        sentence = f"{path} has the architecture {found}, not {expected}"
        raise UnsupportedError(path, "architecture", found, expected, fix, sentence)

    def whole(name: str) -> int | None:
        value = settings.get(f"{arch}.{name}")
        return value if isinstance(value, int) else None

    return About(
        architecture=arch,
        head_size=whole("wkv.head_size"),
        rescale_every=whole("rescale_every_n_layers"),
        license=str(settings.get("general.license") or ""),
        stated=_stated(arch, settings),
        tokens=partial(gguf_vocab.read_tokens, header) if gguf_vocab.has_tokens(header) else None,
        unusable=gguf_vocab.other_vocabulary(header),
    )


def _stated(arch: str, settings: dict[str, Any]) -> tuple[Stated, ...]:
    """Return what the settings say about sizes."""
    keys = {f"{arch}.{key}": size for key, size in _STATED.items()}
    return tuple(
        Stated(size, f"the setting '{key}'", settings[key])
        for key, size in keys.items()
        if key in settings
    )
