"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .. import model as core
from ..errors import ArgumentError
from ..file.config import Config
from ..model import Model, load
from ..units import parse_size

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


def size(text: str) -> int:
    """Parse a size for argparse, which shows the message of this error only."""
    try:
        return parse_size(text)
    except ArgumentError as error:
        message = f"found {error.found}, expected {error.expected}; {error.fix}"
        raise argparse.ArgumentTypeError(message) from None


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
        help="memory for the file, e.g. 12MB: slower, with the same results",
    )


def add_sampling(parser: argparse.ArgumentParser, default: str) -> None:
    """Add how tokens are chosen; the help says `default`."""
    group = parser.add_argument_group("choosing tokens", f"Default: {default}.")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="higher is more random; 0 always takes the likeliest token",
    )
    group.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="choose among the likeliest tokens that have this probability together",
    )
    group.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="leave out tokens with less than P times the probability of the likeliest",
    )
    group.add_argument(
        "--presence-penalty",
        type=float,
        metavar="X",
        help="make tokens of the answer so far less likely",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="the same, for each time that a token is there",
    )
    group.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="make them less likely by a factor"
    )
    group.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of `add_sampling` that were given."""
    values = {name: getattr(options, name) for name in SAMPLING}
    return {name: value for name, value in values.items() if value is not None}


def path(options: argparse.Namespace) -> str:
    """Return the path of the model file."""
    return os.fspath(core.BUNDLED) if options.model is None else options.model


def loaded(options: argparse.Namespace) -> Model:
    """Load the model as the options say."""
    return load(
        options.model,
        backend=options.backend,
        threads=options.threads,
        resident_limit=options.resident_limit,
    )


def describe(config: Config) -> str:
    """Return a model's version, shape and vocabulary in a few words."""
    return f"{_layers(config)}, vocabulary {config['vocab_size']:,}, {config['dtype']}"


def shape(config: Config) -> str:
    """Return a model's version and shape in a few words."""
    return f"{_layers(config)}, {config['dtype']}"


def _layers(config: Config) -> str:
    return f"RWKV {config['arch']}, {config['n_layer']} layers of {config['n_embd']}"
