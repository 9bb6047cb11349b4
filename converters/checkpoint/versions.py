"""Tell which RWKV a checkpoint is from its tensors alone, and check that nothing is missing, odd or misshapen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.table import show

from ..read.source import SourceTensor
from .raw_shapes import Shape, factored, ranks_of, raw_shapes

_OTHERS = (
    (r"\.s_emb", "RWKV-7 with DeepEmbed (x070a)"),
    (r"\.qkv\.", "RWKV-7 with DEA attention (x070b)"),
    (r"\.time_state$", "a tuned state beside the weights"),
    (r"lora_[AB]|lora\.[01]$", "a LoRA adapter"),
    (r"self_attn\.|\.attn\.q_proj", "a hybrid with softmax attention layers"),
    (r"(^|[._])(experts?|router|moe)([._]|$)", "a mixture of experts"),
    (r"\.attn\.x_(proj|bias)", "RWKV-6 of flash-linear-attention"),
    (r"\.tiny_", "RWKV-4 with tiny attention"),
)
_FIXES = {
    "a tuned state beside the weights": "remove the *.time_state tensors and save it again",
    "a LoRA adapter": "merge it into its model first",
    "RWKV-6 of flash-linear-attention": "give the original .pth",
}
# What RWKV-Lite keeps beside the weights: a predictor of neurons, the head of the clusters.
_PREDICTORS = re.compile(r"\.mlp\.fc[12]\.weight$|^head_l1\.weight$")
_SUPPORTED = "plain RWKV-4, 5.0, 5.1, 5.2, 6 or 7"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint known to be complete: raw names, raw values, the shapes of a BlinkDL .pth.

    Attributes
    ----------
    path : str
    config : dict
        arch, n_layer, n_embd, n_ffn, n_head, head_size, vocab_size, as in the metadata of a model file.
    tensors : dict of str to SourceTensor
    notes : list of str
        What a reader of the report should know.
    """

    path: str
    config: dict[str, Any]
    tensors: dict[str, SourceTensor]
    notes: list[str] = field(default_factory=list)


def refuse_variants(path: str, names: list[str]) -> None:
    """Refuse, by name, the relatives of RWKV that this program doesn't run.

    Parameters
    ----------
    path : str
    names : list of str
        Of the tensors, in any dialect.

    Raises
    ------
    UnsupportedError
        One of them belongs to such a variant.
    """
    for pattern, variant in _OTHERS:
        name = next((name for name in names if re.search(pattern, name)), None)
        if name is not None:
            fix = _FIXES.get(variant, "give a checkpoint of a supported version")
            raise UnsupportedError(path, f"tensor {show(name)}", variant, _SUPPORTED, fix)


def detect(tensors: dict[str, SourceTensor]) -> str:
    """Return the version: "v4", "v5.0", "v5.1", "v5.2", "v6" or "v7".

    Parameters
    ----------
    tensors : dict of str to SourceTensor
        Under raw names. Names of files don't matter, names of versions differ between programs.
    """
    att = "blocks.0.att."
    if att + "r_k" in tensors or att + "k_k" in tensors:
        return "v7"
    if att + "time_maa_x" in tensors:
        return "v6"
    if att + "ln_x.weight" not in tensors:
        return "v4"
    gate = tensors.get(att + "gate.weight") or tensors.get(att + "gate.weight.a")
    if gate is None:
        return "v5.0"
    decay = tensors.get(att + "time_decay")
    # One decay for each channel of the key, or one for each head.
    return "v5.2" if decay is not None and math.prod(decay.shape) == gate.shape[-1] else "v5.1"


def check(path: str, tensors: dict[str, SourceTensor], kind: str = "pth") -> Checkpoint:
    """Find the version and sizes of a checkpoint and check every tensor against them.

    Parameters
    ----------
    path : str
        For messages.
    tensors : dict of str to SourceTensor
        Under raw names; sizes of 1 may be missing or extra.
    kind : str
        Format of the file.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FormatError
        Tensors are missing, unknown or of the wrong shape.
    UnsupportedError
        The name of a tensor has two meanings in this format.
    """
    if "emb.weight" not in tensors or not any(name.startswith("blocks.0.") for name in tensors):
        found = f"{len(tensors)} tensors, {_some(list(tensors))}"
        raise FormatError(
            path,
            "checkpoint",
            found,
            "emb.weight, blocks.0.ln1.weight, ...",
            "give an RWKV checkpoint",
        )
    arch = detect(tensors)
    config = _sizes(path, tensors, arch)
    first = "time_faaaa" if "blocks.0.att.time_faaaa" in tensors else "time_first"
    if kind == "safetensors" and arch == "v5.2" and first == "time_first":
        found, expected = "a name that some converters give to time_faaaa", "time_faaaa"
        raise UnsupportedError(
            path, "tensor 'blocks.0.att.time_first'", found, expected, "give the original .pth"
        )
    notes = []
    if arch == "v7":
        # Layer 0 has no first value to mix with: what some checkpoints have there is never used.
        unused = [f"blocks.0.att.v{i}" for i in "012"]
        if any(name in tensors for name in unused):
            notes.append("the unused tensors blocks.0.att.v0, v1, v2 were left out")
            tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    if any(_PREDICTORS.search(name) for name in tensors):
        notes.append(
            "RWKV-Lite's predictors were left out; --sparse-ffn predict and --head preview make others"
        )
        tensors = {name: tensor for name, tensor in tensors.items() if not _PREDICTORS.search(name)}
    expected_shapes = factored(raw_shapes(config, ranks_of(tensors, arch), first), tensors)
    missing = [name for name in expected_shapes if name not in tensors]
    unknown = [name for name in tensors if name not in expected_shapes]
    if missing or unknown:
        both = (("missing", missing), ("unknown", unknown))
        found = " and ".join(
            f"{len(names)} {word} ({_some(names)})" for word, names in both if names
        )
        fix = f"it looks like {arch}; give a complete checkpoint of a supported version"
        raise FormatError(
            path, "tensors", found, f"the {len(expected_shapes)} of {_SUPPORTED}", fix
        )
    shaped = {
        name: _shaped(path, name, tensors[name], shape, arch)
        for name, shape in expected_shapes.items()
    }
    return Checkpoint(path, config, shaped, notes)


def _some(names: list[str]) -> str:
    return ", ".join(show(name)[1:-1] for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _shaped(path: str, name: str, tensor: SourceTensor, shape: Shape, arch: str) -> SourceTensor:
    """Return the tensor in `shape`; formats differ in sizes of 1, and in whether vectors are cut into heads."""
    if tensor.shape == shape:
        return tensor
    old, new = ([n for n in sizes if n != 1] for sizes in (tensor.shape, shape))
    flat = (
        not name.endswith(".weight")
        and min(len(old), len(new)) == 1
        and math.prod(old) == math.prod(new)
    )
    if old != new and not flat:
        fix = f"it looks like {arch}; give a checkpoint of a supported version"
        raise FormatError(path, f"tensor {show(name)}", f"shape {tensor.shape}", f"{shape}", fix)
    return tensor.map(lambda w: w.reshape(shape), shape)


def _sizes(path: str, tensors: dict[str, SourceTensor], arch: str) -> dict[str, Any]:
    def shape(name: str, dims: int = 1) -> Shape:
        found = tensors[name].shape if name in tensors else ()
        if len(found) < dims:
            what = f"shape {found}" if name in tensors else "nothing"
            fix = f"it looks like {arch}; give a complete checkpoint of a supported version"
            raise FormatError(path, f"tensor '{name}'", what, f"{dims} sizes or more", fix)
        return found

    V, C = shape("emb.weight", 2)[-2:]
    layers = {int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d{1,4})\.", name))}
    # One stray number must not make thousands of layers: it is an unknown name then.
    n_layer = max(layers) + 1 if max(layers) < 2 * len(layers) else len(layers)
    H = 1
    if arch in ("v5.0", "v5.1"):
        H = math.prod(shape("blocks.0.att.time_decay"))
    elif arch != "v4":
        name = {"v5.2": "time_decay", "v6": "time_faaaa", "v7": "r_k"}[arch]
        H = shape("blocks.0.att." + name, 2)[0]
        # rwkv.cpp squeezes [1, N] to [N] and adds a size at the end: that is one head, not N of one channel.
        H = 1 if H == C else H
    if C % H:
        fix = "give a checkpoint of a supported version"
        raise FormatError(path, "heads", f"{H}", f"a divisor of {C}, the embedding size", fix)
    return {
        **{
            "arch": arch,
            "n_layer": n_layer,
            "n_embd": C,
            "n_ffn": shape("blocks.0.ffn.key.weight", 2)[0],
        },
        **{"n_head": H, "head_size": C // H, "vocab_size": V},
    }
