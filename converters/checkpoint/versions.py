"""Tell which RWKV a checkpoint is from its tensors alone, and check that it is complete."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import cast

from tinyrwkv.errors import FormatError, UnsupportedError, show
from tinyrwkv.file.config import ModelSizes
from tinyrwkv.versions.forms import LIKE_V7

from ..read.source import SourceTensor
from .raw_shapes import Shape, Sizes, factored, ranks_of, raw_shapes

Tensors = dict[str, SourceTensor]

# Patterns of names that only such a relative of RWKV has, and what it is.
_OTHERS = (
    (r"\.qkv\.", "RWKV-7b or RWKV-8 with DEA attention"),
    (r"(^|[._])rosa\d*\.", "RWKV-8 with ROSA"),
    (r"self_attn\.|\.attn\.q_proj", "a hybrid with softmax attention layers"),
    (r"(^|[._])(experts?|router|moe)([._]|$)", "a mixture of experts"),
    (r"\.attn\.x_(proj|bias)", "RWKV-6 of flash-linear-attention"),
    (r"\.tiny_", "RWKV-4 with tiny attention"),
)
_FIXES = {"RWKV-6 of flash-linear-attention": "give the original .pth"}

TIME_STATE = re.compile(r"(?:^|\.)blocks\.([0-9]{1,4})\.att\.time_state$")
"""The wkv state that a layer begins with, after state tuning."""

# What training leaves in the place of a model, or beside its weights.
_TUNINGS = (
    (re.compile(r"\.init_lora_[AB]$"), "the initial file of a PiSSA adapter"),
    (re.compile(r"lora_[AB]|lora\.[01]$"), "a LoRA adapter"),
    (re.compile(r"\.bone$"), "a Bone adapter"),
    (re.compile(r"\.disha$"), "a DiSHA adapter"),
)
_MERGE = "merge it into its model: tinyrwkv-convert BASE OUTPUT --lora {}"
_TUNING_FIXES = {
    "the initial file of a PiSSA adapter": f"{_MERGE[:-2]}ADAPTER --lora-init {{}}",
    "a LoRA adapter": _MERGE,
    "a tuned state": "write it to a state: tinyrwkv-convert {} tuned.state --model MODEL",
}
# What RWKV-Lite keeps beside the weights: a predictor of neurons, and the head of the clusters.
_PREDICTORS = re.compile(r"\.mlp\.fc[12]\.weight$|^head_l1\.weight$")
# Layer 0 of v7 has no first value to mix with: what some checkpoints have there is never used.
_UNUSED_V7 = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
_SUPPORTED = "plain RWKV-4, 5.0, 5.1, 5.2, 6, 7, 7a or 8 rc00"
_COMPLETE = f"give a complete checkpoint of {_SUPPORTED}"
_TIED = (
    "give a complete checkpoint; if the head is tied to the embedding, give the folder of the "
    "checkpoint with its config.json"
)
_FIRST_NAMES = "emb.weight, blocks.0.ln1.weight, ..."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint known to be complete: raw names, raw values, the shapes of a BlinkDL .pth.

    Attributes
    ----------
    path : str
    sizes : Sizes
    tensors : dict of str to SourceTensor
    notes : list of str
        What a reader of the report should know.
    """

    path: str
    sizes: Sizes
    tensors: Tensors
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> ModelSizes:
        """The version and the sizes, as the metadata of a model file has them."""
        return cast(ModelSizes, self.sizes._asdict())


def kind_of_tuning(names: list[str]) -> str | None:
    """Return what training left in a file besides a model: an adapter, or a state and nothing else.

    Parameters
    ----------
    names : list of str
        Of the tensors.

    Returns
    -------
    str or None
        Such as "a LoRA adapter"; None for everything else.
    """
    for pattern, kind in _TUNINGS:
        if any(pattern.search(name) for name in names):
            return kind
    return "a tuned state" if names and all(map(TIME_STATE.search, names)) else None


def refuse_tuning(path: str, names: list[str]) -> None:
    """Refuse an adapter, or a tuned state without its model, by name.

    Parameters
    ----------
    path : str
    names : list of str
        Of the tensors.

    Raises
    ------
    UnsupportedError
        It is one; the message tells the command for it.
    """
    kind = kind_of_tuning(names)
    if kind is not None:
        other = "merge it with the program that trained it, and convert what it writes"
        fix = _TUNING_FIXES.get(kind, other).format(path)
        sentence = f"{path} is {kind}, not a model"
        raise UnsupportedError(path, "tensors", kind, f"a model of {_SUPPORTED}", fix, sentence)


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
    refuse_tuning(path, names)
    for pattern, variant in _OTHERS:
        name = next((name for name in names if re.search(pattern, name)), None)
        if name is not None:
            what = f"tensor {show(name)}"
            fix = _FIXES.get(variant, f"give a checkpoint of {_SUPPORTED}")
            sentence = f"{path} holds {variant}, which can't be converted: see {what}"
            raise UnsupportedError(path, what, variant, _SUPPORTED, fix, sentence)


def detect(tensors: Tensors) -> str:
    """Return the version: "v4", "v5.0", "v5.1", "v5.2", "v6", "v7", "v7a" or "v8-rc00".

    Parameters
    ----------
    tensors : dict of str to SourceTensor
        Under raw names. The name of the file does not count.
    """
    att = "blocks.0.att."
    if att + "r_k" in tensors or att + "k_k" in tensors:
        if "blocks.0.ffn.s_emb.weight" in tensors:
            return "v7a"
        return "v8-rc00" if "blocks.0.ffn.enn.weight" in tensors else "v7"
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


def check(path: str, tensors: Tensors) -> Checkpoint:
    """Find the version and sizes of a checkpoint and check every tensor against them.

    Parameters
    ----------
    path : str
        For messages.
    tensors : dict of str to SourceTensor
        Under raw names; sizes of 1 may be missing or extra.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FormatError
        Tensors are missing, unknown or of the wrong shape.
    """
    if "emb.weight" not in tensors or not any(name.startswith("blocks.0.") for name in tensors):
        found, expected = f"the tensors {_some(list(tensors))}", _FIRST_NAMES
        sentence = f"{path} is no RWKV checkpoint: it has {found if tensors else 'no tensors'}"
        fix = f"give one of RWKV, which has {_FIRST_NAMES}"
        raise FormatError(path, "checkpoint", found, expected, fix, sentence)
    arch = detect(tensors)
    sizes = _sizes(path, tensors, arch)
    bonus = "time_faaaa" if "blocks.0.att.time_faaaa" in tensors else "time_first"
    tensors, notes = _without_unused(tensors, arch)
    shapes = factored(raw_shapes(sizes, ranks_of(tensors, arch), bonus), tensors)
    _check_names(path, tensors, shapes, arch)
    shaped: Tensors = {}
    for name, shape in shapes.items():
        shaped[name] = _shaped(path, name, tensors[name], shape, arch)
    return Checkpoint(path, sizes, shaped, notes)


def _without_unused(tensors: Tensors, arch: str) -> tuple[Tensors, list[str]]:
    """Return the tensors that the model uses, and notes about the others."""
    notes = []
    if arch in LIKE_V7 and any(name in tensors for name in _UNUSED_V7):
        notes.append("the unused tensors blocks.0.att.v0, v1, v2 were left out")
        tensors = {name: one for name, one in tensors.items() if name not in _UNUSED_V7}
    if any(TIME_STATE.search(name) for name in tensors):
        notes.append(
            "the tuned state (blocks.*.att.time_state) was left out; "
            "--model MODEL writes it to a file of its own"
        )
        tensors = {name: one for name, one in tensors.items() if not TIME_STATE.search(name)}
    if any(_PREDICTORS.search(name) for name in tensors):
        notes.append(
            "RWKV-Lite's predictors were left out; "
            "--sparse-ffn predict and --head preview make others"
        )
        tensors = {name: one for name, one in tensors.items() if not _PREDICTORS.search(name)}
    return tensors, notes


def _check_names(path: str, tensors: Tensors, shapes: dict[str, Shape], arch: str) -> None:
    """Refuse a checkpoint that lacks tensors or has others."""
    missing = [name for name in shapes if name not in tensors]
    unknown = [name for name in tensors if name not in shapes]
    parts = []
    if missing:
        parts.append(f"{len(missing)} {_are(missing)} missing ({_some(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} {_are(unknown)} unknown ({_some(unknown)})")
    if parts:
        found, expected = " and ".join(parts), f"the {len(shapes)} of {_SUPPORTED}"
        sentence = f"{path} looks like {arch}, but its tensors do not fit: {found}"
        fix = _TIED if missing == ["head.weight"] else _COMPLETE
        raise FormatError(path, "tensors", found, expected, fix, sentence)


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: list[str]) -> str:
    """Return the first few of a list of names."""
    shown = [show(name)[1:-1] for name in names[:5]]
    return ", ".join([*shown, "..."] if len(names) > 5 else shown)


def _shaped(path: str, name: str, tensor: SourceTensor, shape: Shape, arch: str) -> SourceTensor:
    """Return the tensor in `shape`.

    Formats differ in sizes of 1, and in whether vectors are cut into heads.
    """
    if tensor.shape == shape:
        return tensor
    old = [n for n in tensor.shape if n != 1]
    new = [n for n in shape if n != 1]
    is_vector = not name.endswith(".weight") and min(len(old), len(new)) == 1
    same_vector = is_vector and math.prod(old) == math.prod(new)
    if old != new and not same_vector:
        what, found, expected = f"tensor {show(name)}", f"shape {tensor.shape}", f"{shape}"
        sentence = f"{path} looks like {arch}, but {what} has {found}, not {expected}"
        raise FormatError(path, what, found, expected, _COMPLETE, sentence)
    return tensor.map(lambda w: w.reshape(shape), shape)


def _sizes(path: str, tensors: Tensors, arch: str) -> Sizes:
    """Read the sizes of a model off its tensors."""

    def shape(name: str, dims: int = 1) -> Shape:
        found = tensors[name].shape if name in tensors else ()
        if len(found) < dims:
            expected = f"{dims} sizes or more"
            if name in tensors:
                wrong, sentence = f"shape {found}", f"has shape {found}, not {expected}"
            else:
                wrong, sentence = "nothing", "is missing"
            what = f"tensor '{name}'"
            sentence = f"{path} looks like {arch}, but {what} {sentence}"
            raise FormatError(path, what, wrong, expected, _COMPLETE, sentence)
        return found

    V, C = shape("emb.weight", 2)[-2:]
    if arch == "v4":
        H = 1
    elif arch in ("v5.0", "v5.1"):
        H = math.prod(shape("blocks.0.att.time_decay"))
    else:
        by_head = {"v5.2": "time_decay", "v6": "time_faaaa"}.get(arch, "r_k")
        H = shape("blocks.0.att." + by_head, 2)[0]
        # rwkv.cpp squeezes [1, N] to [N] and adds a size at the end: that is one head, not N heads
        # of one channel.
        if H == C:
            H = 1
    if C % H:
        expected = f"a divisor of {C}, the embedding size"
        sentence = f"{path} would have {H} heads, which is not {expected}"
        raise FormatError(path, "heads", f"{H}", expected, _COMPLETE, sentence)
    F = shape("blocks.0.ffn.key.weight", 2)[0]
    return Sizes(arch, _n_layer(tensors), C, F, H, C // H, V)


def _n_layer(tensors: Tensors) -> int:
    layers = {int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d{1,4})\.", name))}
    # One stray number must not make thousands of layers: it is an unknown name then.
    return max(layers) + 1 if max(layers) < 2 * len(layers) else len(layers)
