"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .. import loading
from ..errors import ArgumentError
from ..file.config import Config
from ..loading import load
from ..model import Model
from ..state_file import DTYPES
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
    """Return the bytes of a size; argparse shows the message of an ArgumentTypeError only."""
    try:
        return parse_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, by default the model that ships in the package; `given_model` reads it."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a .trwkv file (default: the small bundled model)"
    )
    parser.add_argument(
        "-m", "--model", dest="model_option", metavar="FILE", help="the same as MODEL"
    )


def given_model(options: argparse.Namespace) -> str | None:
    """Return the path of the model that was given, by its place or by its option.

    Raises
    ------
    ArgumentError
        Both were given, and they differ.
    """
    by_place: str | None = options.model
    by_option: str | None = options.model_option
    if by_place is not None and by_option not in (None, by_place):
        found = f"{by_place} and {by_option}"
        sentence = f"two models were given, {found}"
        what = ("arguments", "model", found, "one model")
        raise ArgumentError(*what, "leave one of them out", sentence)
    return by_option if by_place is None else by_place


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add the options for loading a model."""
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
        help="limit on the memory for the file, e.g. 12MB: slower, with the same results",
    )


def add_guessing(parser: argparse.ArgumentParser) -> None:
    """Add the options for guessing tokens; see `loaded`."""
    group = parser.add_argument_group("guessing tokens", "Faster, and every text is the same.")
    group.add_argument(
        "--lookup",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="guess that the text goes on as after the same words before (default: --lookup)",
    )
    group.add_argument(
        "--draft", metavar="FILE", help="let this smaller model of the same vocabulary guess"
    )


def add_state_dtype(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the type of states that are saved. The help shows the text `default`."""
    parser.add_argument(
        "--state-dtype",
        choices=DTYPES,
        help=f"type of states in files; int8 takes a quarter of f32 (default: {default})",
    )


def add_sampling(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options of a `Sampler`. The help shows the text `default`."""
    group = parser.add_argument_group("choosing tokens", f"Default: {default}.")
    group.add_argument(
        "--temperature",
        "--temp",
        type=float,
        metavar="T",
        help="higher is more random; 0 always takes the likeliest token",
    )
    group.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="choose among the likeliest tokens that together have this probability",
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
        help="subtract X from the logit of each token that the answer already has",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="subtract X for each time that the answer has the token",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="make tokens that the answer already has less likely by this factor",
    )
    group.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings from `add_sampling` that were given."""
    values = {name: getattr(options, name) for name in SAMPLING}
    return {name: value for name, value in values.items() if value is not None}


def path(options: argparse.Namespace) -> str:
    """Return the path of the model file."""
    return os.fspath(loading.BUNDLED) if options.model is None else options.model


def loaded(options: argparse.Namespace) -> Model:
    """Load the model as the options say; those of `add_guessing` may be missing."""
    model = load(
        options.model,
        backend=options.backend,
        threads=options.threads,
        resident_limit=options.resident_limit,
        draft=vars(options).get("draft"),
    )
    model.lookup = vars(options).get("lookup", True)
    return model


def describe(config: Config) -> str:
    """Return a model's version, shape and vocabulary in a few words."""
    return f"{_layers(config)}, vocabulary {config['vocab_size']:,}, {config['dtype']}"


def shape(config: Config) -> str:
    """Return a model's version and shape in a few words."""
    return f"{_layers(config)}, {config['dtype']}"


def _layers(config: Config) -> str:
    return f"RWKV {config['arch']}, {config['n_layer']} layers of {config['n_embd']}"
