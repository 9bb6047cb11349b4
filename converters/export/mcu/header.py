"""The C header of a firmware: the program, sizes and offsets, the template, and two tables."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from tinyrwkv.chat.answer_settings import DEFAULTS
from tinyrwkv.chat.profile import Profile
from tinyrwkv.chat.templates import Template
from tinyrwkv.errors import UnsupportedError
from tinyrwkv.kernels import abi as op
from tinyrwkv.model import Model
from tinyrwkv.program.operations import Operation
from tinyrwkv.versions.state_shape import layer_state_size

from .scripts_table import ScriptsTable, scripts_table

MARK = "/* Made by tinyrwkv-convert --mcu. Do not edit. */"
"""The first line of a header; only such a file is replaced."""

_ARGUMENTS = (
    "WEIGHTS PROGRAM FIRST LAST TOKENS IDS OLD NEW SHARED PRIVATE OUT HEAD BEGIN END THREADS "
    "BARRIER ARGUMENTS"
).split()
"""Places in the arguments of a call that the loader fills in, by their names in ``abi``."""

_MODES = ("NO_HEAD", "HEAD_OF_LAST", "WORK", "BARRIER_BYTES", "MAX_TOKENS", "EPSILON", "ONES")


def header_text(model: Model, profile: Profile, template: Template, kernels: str) -> str:
    """Return the header of a model.

    Parameters
    ----------
    model : Model
    profile : Profile
        How long an answer may be.
    template : Template
        What stands before and after a line, and what ends an answer.
    kernels : str
        The identity of the kernels, see ``native/bare_metal.py``.
    """
    blocks = [
        [MARK, "#ifndef RWKV_MODEL_H", "#define RWKV_MODEL_H", "#include <stdint.h>"],
        _agreed(),
        _file(model, kernels),
        _memory(model),
        _program(model),
        _texts(model, profile, template),
        _tokenizer(model),
        _scripts(scripts_table()),
        ["#endif"],
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def operations_of_one_core(model: Model) -> list[Operation]:
    """Return a model's operations without those that wait for other threads."""
    return [one for one in model.program.operations if one.opcode != op.SYNC]


def _agreed() -> list[str]:
    """Return the numbers of ``kernels/abi.py``."""
    return [_define(name, getattr(op, name)) for name in (*_ARGUMENTS, *_MODES)]


def _file(model: Model, kernels: str) -> list[str]:
    """Return what tells the model file, and the kernels, from others."""
    data = model.file.bytes
    header = np.ascontiguousarray(data[:64]).tobytes()
    return [
        f"/* {model.config['arch']}, {model.config['n_layer']} layers of "
        f"{model.config['n_embd']}, {model.config['dtype']}; {model.hash} */",
        _define("FILE_BYTES", data.size),
        _define("HEADER_CRC", f"{int.from_bytes(header[60:], 'little'):#010x}u"),
        _define("FILE_CRC", f"{zlib.crc32(data.data):#010x}u"),
        _define("KERNELS", _string(kernels.encode())),
    ]


def _memory(model: Model) -> list[str]:
    """Return the sizes of the memory that a token needs, and what is in it at first."""
    config, program = model.config, model.program
    is_v4 = config["arch"] == "v4"
    layer = layer_state_size(config)
    epsilon = np.float32(config["ln_x_eps"]).view(np.uint32)
    return [
        _define("STATE_FLOATS", program.state_size),
        _define("LAYER_FLOATS", layer),
        "/* From here on, each layer of the first state has -1e30 and not 0. */",
        _define("EXPONENTS", 4 * config["n_embd"] if is_v4 else layer),
        _define("SHARED_BYTES", program.shared_bytes),
        _define("PRIVATE_BYTES", program.private_bytes),
        _define("CHANNELS", config["n_embd"]),
        _define("EPSILON_BITS", f"{epsilon:#010x}u"),
        _define("VOCABULARY", config["vocab_size"]),
    ]


def _program(model: Model) -> list[str]:
    """Return the table that the kernels walk."""
    operations = operations_of_one_core(model)
    table = np.zeros((len(operations), op.WIDTH), "<i8")
    for row, operation in zip(table, operations, strict=True):
        row[: 1 + len(operation.fields)] = [operation.opcode, *operation.fields]
    layers = model.program.operations[: model.program.select]
    select = sum(one.opcode != op.SYNC for one in layers)
    return [
        _define("OPERATIONS", len(operations)),
        "/* The operations from here on are the head. */",
        _define("SELECT", select),
        _define("PROGRAM_CRC", f"{zlib.crc32(table.tobytes()):#010x}u"),
        f"static const int64_t rwkv_program[{table.shape[0]}][{table.shape[1]}] = {{",
        *(f"{{{_numbers(row)}}}," for row in table),
        "};",
    ]


def _texts(model: Model, profile: Profile, template: Template) -> list[str]:
    """Return what stands around a line, and what ends an answer."""
    if template.thoughts is not None or len(template.stop) > 1:
        found, expected = f"template '{template.name}'", "one with a single end and no thoughts"
        fix = "convert the model with --template chat, robot, raven or none first"
        sentence = f"{model.path} has the {found}; the loader of a firmware knows no thoughts"
        raise UnsupportedError(model.path, "template", found, expected, fix, sentence)
    before, _, after = template.prompt("\0").partition("\0")
    most = dict(profile.settings).get("max_tokens", DEFAULTS["max_tokens"])
    stop = template.stop[0].encode() if template.stop else b""
    return [
        _define("BEFORE", _string(before.encode())),
        _define("AFTER", _string(after.encode())),
        _define("STOP", _string(stop)),
        _define("MAX_ANSWER", int(most)),
    ]


def _tokenizer(model: Model) -> list[str]:
    """Return where the sorted entries lie in the file, and the entry of each token.

    The entries are searched where they are: a copy would take as much memory again.
    """
    tensors = model.file.tensors
    ids = model.file["tokenizer.ids"]
    places = np.full(model.config["vocab_size"], len(ids), np.uint32)  # no text
    places[ids] = np.arange(len(ids))
    number = "uint16_t" if len(ids) < 1 << 16 else "uint32_t"
    longest = int(np.diff(model.file["tokenizer.starts"]).max())
    return [
        _define("ENTRIES", len(ids)),
        _define("LONGEST_ENTRY", longest),
        *(
            _define(f"TOKENIZER_{name.upper()}", tensors[f"tokenizer.{name}"].offset)
            for name in ("bytes", "starts", "ids")
        ),
        "/* The entry of each token; that of a token without text is RWKV_ENTRIES. */",
        *_array(number, "rwkv_entry_of", places),
    ]


def _scripts(table: ScriptsTable) -> list[str]:
    """Return the byte automaton of scripts."""
    return [
        "/* The grammar of scripts: the next state by state and class of a byte; 0 is none. */",
        _define("CLASSES", table.following.shape[1]),
        *_array("uint8_t", "rwkv_class_of", table.classes),
        *_array("uint16_t", "rwkv_next_state", table.following.reshape(-1)),
        *_array("uint8_t", "rwkv_may_end", table.accepts),
    ]


def _define(name: str, value: object) -> str:
    return f"#define RWKV_{name} {value}"


def _array(kind: str, name: str, numbers: np.ndarray) -> Iterator[str]:
    yield f"static const {kind} {name}[{len(numbers)}] = {{"
    for start in range(0, len(numbers), 24):
        yield _numbers(numbers[start : start + 24]) + ","
    yield "};"


def _numbers(row: Iterable[int]) -> str:
    return ",".join(str(int(number)) for number in row)


def _string(data: bytes) -> str:
    r"""Return bytes as a string of C, such as "\n\nUser:"."""
    plain = {10: "\\n", 34: '\\"', 63: "\\077", 92: "\\\\"}  # no trigraphs: ? is octal
    text = "".join(
        plain.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in data
    )
    return f'"{text}"'
