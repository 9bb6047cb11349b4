"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .. import model as core
from ..errors import ArgumentError
from ..model import Model, load
from ..units import parse_size

SAMPLING = (
    *(
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ),
    "seed",
)


def size(text: str) -> int:
    """Parse a size for argparse, which shows the message of this error only."""
    try:
        return parse_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(
            f"found {error.found}, expected {error.expected}; {error.fix}"
        ) from None


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, by default the model that ships in the package."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a .trwkv file (default: the small bundled model)"
    )


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add how to load a model."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads for each token (default: 1)"
    )
    group.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, native, numba or numpy (default: auto)",
    )
    group.add_argument(
        "--resident-limit",
        type=size,
        metavar="SIZE",
        help="memory that the file may take, e.g. 12MB: slower, no worse",
    )


def add_sampling(parser: argparse.ArgumentParser, default: str) -> None:
    """Add how tokens are chosen; `default` is said in the help."""
    group = parser.add_argument_group("choosing tokens", f"Those left out: {default}.")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="0 is greedy: always the likeliest token"
    )
    group.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="choose among the likeliest with this share"
    )
    group.add_argument(
        "--min-p", type=float, metavar="P", help="leave out what is so many times less likely"
    )
    group.add_argument("--presence-penalty", type=float, metavar="X", help="against tokens seen")
    group.add_argument(
        "--frequency-penalty", type=float, metavar="X", help="against tokens seen, each time"
    )
    group.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="the same, as a factor"
    )
    group.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of `add_sampling` that were given."""
    return {name: value for name in SAMPLING if (value := getattr(options, name)) is not None}


def path(options: argparse.Namespace) -> str:
    """Return the path of the model file."""
    return os.fspath(core.BUNDLED) if options.model is None else options.model


def loaded(options: argparse.Namespace) -> Model:
    """Load the model as the options say."""
    limit = options.resident_limit
    return load(
        options.model, backend=options.backend, threads=options.threads, resident_limit=limit
    )


def describe(config: dict[str, Any]) -> str:
    """Return a model's version and shape in a few words."""
    shape = f"RWKV {config['arch']}, {config['n_layer']} layers of {config['n_embd']}"
    return f"{shape}, vocabulary {config['vocab_size']:,}, {config['dtype']}"
