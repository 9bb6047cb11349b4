"""The settings of a GGUF file: sizes of the model, the vocabulary, how to talk to it."""

from __future__ import annotations

from typing import Any

from tinyrwkv.chat.templates import TEMPLATES, Template
from tinyrwkv.errors import UnsupportedError
from tinyrwkv.file.mapped import TensorFile

ARCHITECTURES = {"v6": "rwkv6", "v7": "rwkv7"}

_RANKS = {
    "v6": {"time_mix_extra_dim": "time_maa_w2", "time_decay_extra_dim": "time_decay_w2"},
    "v7": {
        f"attention.{name}_lora_rank": f"{letter}2"
        for name, letter in {
            "decay": "w",
            "iclr": "a",
            "value_residual_mix": "v",
            "gate": "g",
        }.items()
    },
}
_FILE_TYPES = {"f32": 0, "f16": 1, "int8": 7}
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


def settings(file: TensorFile) -> dict[str, Any]:
    """Return the settings for a model file of RWKV-6 or 7.

    Parameters
    ----------
    file : TensorFile

    Returns
    -------
    dict
        Of whole numbers, decimal numbers, texts and lists.

    Raises
    ------
    UnsupportedError
        A rank differs between layers.
    """
    config = file.metadata
    source, arch = config.get("source", {}), ARCHITECTURES[config["arch"]]
    found: dict[str, Any] = {
        f"general.{key}": source[key] for key in ("name", "license") if key in source
    }
    found |= {"general.file_type": _FILE_TYPES[config["dtype"]], "general.quantization_version": 2}
    sizes = {
        **{"block_count": config["n_layer"], "embedding_length": config["n_embd"]},
        **{"feed_forward_length": config["n_ffn"], "wkv.head_size": config["head_size"]},
        **{"attention.layer_norm_epsilon": 1e-5, "vocab_size": config["vocab_size"]},
        # llama.cpp wants both: the length is unlimited, and heads are those of wkv
        **{"context_length": 1 << 20, "attention.head_count": 0},
        **{key: _rank(file, word) for key, word in _RANKS[config["arch"]].items()},
    }
    if config["arch"] == "v6":
        sizes["rescale_every_n_layers"] = 0
    return found | {f"{arch}.{key}": value for key, value in sizes.items()} | _vocabulary(file)


def _rank(file: TensorFile, word: str) -> int:
    """Return the inner rank of a matrix that all layers have, all but the first, or, where there is one layer, none."""
    names = (f"blocks.{layer}.att.{word}.weight" for layer in range(file.metadata["n_layer"]))
    ranks = {file.tensors[name].shape[1] for name in names if name in file.tensors}
    if len(ranks) > 1:
        found, fix = (
            ", ".join(map(str, sorted(ranks))),
            "llama.cpp can't run it: use this file as it is",
        )
        raise UnsupportedError(
            file.path, f"rank of att.{word}", found, "the same in all layers", fix
        )
    return ranks.pop() if ranks else 1


def _vocabulary(file: TensorFile) -> dict[str, Any]:
    if "tokenizer.ids" not in file:
        return {"tokenizer.ggml.model": "none"}
    data, starts, ids = (file[f"tokenizer.{part}"] for part in ("bytes", "starts", "ids"))
    tokens = {int(one): data[starts[k] : starts[k + 1]].tobytes() for k, one in enumerate(ids)}
    # llama.cpp takes the text between the quotes of a Python literal; 0 ends a document.
    texts = {one: repr(token)[2:-1] for one, token in tokens.items()}
    taken = set(texts.values())
    every = range(file.metadata["vocab_size"])
    listed = [
        texts[one] if one in texts else _new(f"[PAD{one}]" if one else "<s>", taken)
        for one in every
    ]
    types = [_NORMAL if one in texts else _UNUSED if one else _CONTROL for one in every]
    found: dict[str, Any] = {
        **{
            "tokenizer.ggml.model": "rwkv",
            "tokenizer.ggml.tokens": listed,
            "tokenizer.ggml.token_type": types,
        },
        **{"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0},
    }
    template = TEMPLATES.get(file.metadata.get("template", ""))
    if template is None or not template.stop:
        return found
    # llama.cpp has no stop strings: the token of an empty line ends an answer.
    ends = [one for one, token in tokens.items() if token == b"\n\n"]
    if ends:
        found["tokenizer.ggml.eot_token_id"] = ends[0]
    return found | {"tokenizer.chat_template": _jinja(template)}


def _new(text: str, taken: set[str]) -> str:
    """Return a text that no token has."""
    while text in taken:
        text = f"[{text}]"
    return text


def _jinja(template: Template) -> str:
    """Return a chat template in the language that llama.cpp has for them."""

    def put(form: str, value: str = "message['content']|trim") -> str:
        before, after = (repr(part) for part in form.split("{}"))
        return f"{{{{- {before} + {value} + {after} -}}}}"

    roles = {
        "system": put(template.system_form),
        "user": put(template.user_form),
        "assistant": put(f"{template.answer_prefix} {{}}{template.between}"),
    }
    turns = "".join(
        f"{{%- if message['role'] == '{role}' -%}}{text}{{%- endif -%}}"
        for role, text in roles.items()
    )
    end = f"{{%- if add_generation_prompt -%}}{{{{- {template.answer_prefix!r} -}}}}{{%- endif -%}}"
    return f"{{{{- bos_token -}}}}{{%- for message in messages -%}}{turns}{{%- endfor -%}}{end}"
