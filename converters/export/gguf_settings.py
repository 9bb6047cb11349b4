"""The settings of a GGUF file: sizes of the model, the vocabulary, how to talk to it."""

from __future__ import annotations

from tinyrwkv.chat.templates import TEMPLATES, Template
from tinyrwkv.errors import UnsupportedError
from tinyrwkv.file.tensors import TensorFile

ARCHITECTURES = {"v6": "rwkv6", "v7": "rwkv7"}

CREATED_BY = "tinyrwkv.created_by"
"""The first setting, by which a file that the converter wrote is known."""

CHAT_TEMPLATE = "tokenizer.chat_template"

Value = int | float | str | list[int] | list[str]

# Settings that hold an inner rank, and the matrix that tells it.
_RANKS = {
    "v6": {"time_mix_extra_dim": "time_maa_w2", "time_decay_extra_dim": "time_decay_w2"},
    "v7": {
        "attention.decay_lora_rank": "w2",
        "attention.iclr_lora_rank": "a2",
        "attention.value_residual_mix_lora_rank": "v2",
        "attention.gate_lora_rank": "g2",
    },
}
_FILE_TYPES = {"f32": 0, "f16": 1, "int8": 7}
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


def key_values(file: TensorFile) -> dict[str, Value]:
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
    return {**_general(file), **_sizes(file), **_vocabulary(file)}


def _general(file: TensorFile) -> dict[str, Value]:
    source = file.metadata.get("source", {})
    found: dict[str, Value] = {CREATED_BY: file.metadata.get("created_by", "tinyrwkv-convert")}
    for key in ("name", "license"):
        if key in source:
            found[f"general.{key}"] = source[key]
    found["general.file_type"] = _FILE_TYPES[file.metadata["dtype"]]
    found["general.quantization_version"] = 2
    return found


def _sizes(file: TensorFile) -> dict[str, Value]:
    config = file.metadata
    sizes: dict[str, Value] = {
        "block_count": config["n_layer"],
        "embedding_length": config["n_embd"],
        "feed_forward_length": config["n_ffn"],
        "wkv.head_size": config["head_size"],
        "attention.layer_norm_epsilon": 1e-5,
        "vocab_size": config["vocab_size"],
        # llama.cpp wants both: the length is unlimited, and heads are those of wkv
        "context_length": 1 << 20,
        "attention.head_count": 0,
    }
    for key, word in _RANKS[config["arch"]].items():
        sizes[key] = _rank(file, word)
    if config["arch"] == "v6":
        sizes["rescale_every_n_layers"] = 0
    arch = ARCHITECTURES[config["arch"]]
    return {f"{arch}.{key}": value for key, value in sizes.items()}


def _rank(file: TensorFile, word: str) -> int:
    """Return the inner rank of a matrix of the time mix.

    Layer 0 may lack the matrix. If no layer has it, any number will do.
    """
    names = [f"blocks.{layer}.att.{word}.weight" for layer in range(file.metadata["n_layer"])]
    ranks = {file.tensors[name].shape[1] for name in names if name in file.tensors}
    if len(ranks) > 1:
        found = ", ".join(str(rank) for rank in sorted(ranks))
        what, expected = f"rank of att.{word}", "the same in all layers"
        fix = "use this file as it is, with tinyrwkv"
        sentence = f"{file.path}: the {what} differs between layers ({found}); llama.cpp has one"
        raise UnsupportedError(file.path, what, found, expected, fix, sentence)
    return ranks.pop() if ranks else 1


def _vocabulary(file: TensorFile) -> dict[str, Value]:
    if "tokenizer.ids" not in file:
        return {"tokenizer.ggml.model": "none"}
    tokens = _tokens(file)
    # llama.cpp takes the text between the quotes of a Python literal.
    texts = {id: repr(token)[2:-1] for id, token in tokens.items()}
    taken = set(texts.values())
    listed, types = [], []
    for id in range(file.metadata["vocab_size"]):
        if id in texts:
            listed.append(texts[id])
            types.append(_NORMAL)
        elif id == 0:  # ends a document
            listed.append(_new("<s>", taken))
            types.append(_CONTROL)
        else:
            listed.append(_new(f"[PAD{id}]", taken))
            types.append(_UNUSED)
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": listed,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        **_template(file, tokens),
    }


def _tokens(file: TensorFile) -> dict[int, bytes]:
    """Return the bytes of the tokens by id."""
    data, starts = file["tokenizer.bytes"], file["tokenizer.starts"]
    tokens = {}
    for k, id in enumerate(file["tokenizer.ids"]):
        tokens[int(id)] = data[starts[k] : starts[k + 1]].tobytes()
    return tokens


def _template(file: TensorFile, tokens: dict[int, bytes]) -> dict[str, Value]:
    """Return how to talk to the model."""
    template = TEMPLATES.get(file.metadata.get("template", ""))
    if template is None or not template.stop:
        return {}
    found: dict[str, Value] = {}
    # llama.cpp has no stop strings: the token of an empty line ends an answer.
    ends = [id for id, token in tokens.items() if token == b"\n\n"]
    if ends:
        found["tokenizer.ggml.eot_token_id"] = ends[0]
    found[CHAT_TEMPLATE] = _jinja(template)
    return found


def _new(text: str, taken: set[str]) -> str:
    """Return a text that no token has."""
    while text in taken:
        text = f"[{text}]"
    return text


def _jinja(template: Template) -> str:
    """Return a chat template in Jinja, the language that llama.cpp has for them."""
    system = _put(template.system_form)
    user = _put(template.user_form)
    answer = _put(f"{template.answer_prefix} {{}}{template.between}")
    turns = _if_role("system", system) + _if_role("user", user) + _if_role("assistant", answer)
    prefix = f"{{{{- {template.answer_prefix + template.opening!r} -}}}}"
    return (
        "{{- bos_token -}}"
        "{%- for message in messages -%}" + turns + "{%- endfor -%}"
        "{%- if add_generation_prompt -%}" + prefix + "{%- endif -%}"
    )


def _put(form: str) -> str:
    """Return Jinja that writes a form with the message in the place of its braces."""
    before, after = (repr(part) for part in form.split("{}"))
    return f"{{{{- {before} + message['content']|trim + {after} -}}}}"


def _if_role(role: str, text: str) -> str:
    return f"{{%- if message['role'] == '{role}' -%}}{text}{{%- endif -%}}"
