"""The options of ``tinyrwkv-convert`` that compress, and what they mean together."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from tinyrwkv.errors import ArgumentError
from tinyrwkv.units import parse_size

from .compress.pipeline import KEEP, ROWS, Options
from .compress.presets import PRESETS

# What an option on the command line takes away from a preset.
_INSTEAD = {"low_rank": ("rank_budget",), "sparse_ffn": ("keep",), "recall": ("keep",)}


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = parser.add_argument_group(
        "compression",
        "What each of these costs is measured on text held back, and recorded in OUTPUT.",
    )
    add = group.add_argument
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="exact: reads less and computes the same bits; lite: all of it",
    )
    add(
        "--budget",
        type=size,
        metavar="BYTES",
        help="search: the lowest loss with at most this resident, such as 24MB",
    )
    add(
        "--calibrate",
        metavar="FILE",
        help="text to fit to, documents apart by a line <|doc|>; else own samples",
    )
    add(
        "--low-rank",
        type=_divisor,
        metavar="K",
        help="1/4 or 4: factor receptance, key, value and gate by rank 1/4",
    )
    add(
        "--whiten", action="store_true", help="fit factors to the inputs that occur; for --low-rank"
    )
    add(
        "--rank-budget",
        type=_share,
        metavar="BYTES",
        help="ranks by need: all factors in 4MB, or 70%% of before",
    )
    add(
        "--sparse-ffn",
        choices=("exact", "predict"),
        help="read only the values of neurons that fire, bit for bit the "
        "same; or only neurons that a 1-bit predictor takes for needed",
    )
    add(
        "--keep",
        type=_part,
        metavar="P",
        help=f"share of the neurons that predictors choose (default: {KEEP})",
    )
    add(
        "--recall",
        type=_part,
        metavar="P",
        help="choose those that have this share of the energy, such as 0.99",
    )
    add(
        "--mlp",
        type=_count,
        metavar="N",
        help="join the predictor with a network of N units, such as 64, at a cost",
    )
    add(
        "--head",
        choices=("preview",),
        help="read few rows of the head, which a preview of all rows chooses",
    )
    add("--head-rows", type=_count, metavar="N", help=f"so many (default: {ROWS})")
    add("--head-clusters", type=int, metavar="N", help=argparse.SUPPRESS)
    add(
        "--report",
        metavar="FILE",
        help="write a page of pictures, FILE.html, and its numbers beside it as JSON",
    )
    add("--seed", type=_seed, metavar="N", help="of samples and draws (default: 0)")


def read(arguments: argparse.Namespace) -> Options | None:
    """Return what the arguments ask for, None where they don't ask for compression.

    Raises
    ------
    ArgumentError
        They don't go together.
    """
    if arguments.head_clusters is not None:
        found, fix = (
            "--head-clusters",
            "--head preview reads fewer bytes for the same loss: see docs/compression.md",
        )
        raise ArgumentError("arguments", "options", found, "a form of the head that pays", fix)
    names = [
        name for name in Options._fields if getattr(arguments, name, None) not in (None, False)
    ]
    options = PRESETS[arguments.preset] if arguments.preset else Options()
    gone: dict[str, Any] = {other: None for name in names for other in _INSTEAD.get(name, ())}
    options = options._replace(**gone)
    options = options._replace(**{name: getattr(arguments, name) for name in names})
    if arguments.budget is not None:
        clash = ["preset"] * (arguments.preset is not None) + [
            name for name in names if name != "seed"
        ]
        if clash:
            found, fix = (
                f"--budget and --{clash[0].replace('_', '-')}",
                "leave it out: --budget searches the options",
            )
            raise ArgumentError("arguments", "options", found, "one of them", fix)
    elif options._replace(seed=0, whiten=False) == Options():
        for name in ("calibrate", "whiten", "seed", "report"):
            if getattr(arguments, name) not in (None, False):
                fix = "add what is to be fitted, such as --low-rank 4"
                raise ArgumentError(
                    "arguments", "options", f"--{name} alone", "an option that compresses", fix
                )
        return None
    if arguments.dtype != "int8":
        fix = "leave --dtype out"
        raise ArgumentError(
            "arguments", "dtype", arguments.dtype, "int8, which compressed models are made of", fix
        )
    return options


def _divisor(text: str) -> float:
    match = re.fullmatch(r"(?:1/)?([0-9]+(?:\.[0-9]+)?)", text.strip())
    if not match or not 1 <= float(match[1]) < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 1/K or K, such as 1/4 or 4")
    return float(match[1])


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 1 or more")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or not int(text) < 1 << 32:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a whole number from 0 to {(1 << 32) - 1}"
        )
    return int(text)


def _part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = math.nan
    if not 0 < part <= 1:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a number above 0, at most 1, such as 0.16"
        )
    return part


def size(text: str) -> int:
    """Return the bytes of a text such as 24MB, for argparse."""
    try:
        return parse_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(
            f"found {error.found}, expected {error.expected}; {error.fix}"
        ) from None


def _share(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text.strip())
    if match:
        if not 0 < float(match[1]) <= 100:
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected a share above 0 %, at most 100 %"
            )
        return float(match[1]) / 100
    return float(size(text))
