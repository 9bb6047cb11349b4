"""The arguments of ``tinyrwkv-convert`` that compress, and the options that they make together."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from tinyrwkv.errors import ArgumentError

from .arguments import budget, count, divisor, parts, rows, seed, share, size_or_share
from .compress.options import KEEP, LIKELY_ROWS, ROWS, Options
from .compress.presets import PRESETS
from .write.parts import PARTS

_INSTEAD = {"low_rank": ("rank_budget",), "sparse_ffn": ("keep",), "recall": ("keep",)}
"""The options of a preset that an argument takes away."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    group = parser.add_argument_group(
        "compression",
        "The loss of each technique is measured on held-out text and recorded in OUTPUT.",
    )
    _add_choices(group)
    _add_int4(group)
    _add_projections(group)
    _add_channel_mix(group)
    _add_head(group)
    group.add_argument(
        "--report",
        metavar="FILE",
        help="write a page of pictures, such as report.html, and its numbers beside it as JSON",
    )
    group.add_argument("--seed", type=seed, metavar="N", help="random seed (default: 0)")


def _add_choices(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="exact: read less for each token and compute the same bits; "
        "lite: read least (layers in int4, predicted neurons, a preview of the head)",
    )
    group.add_argument(
        "--budget",
        type=budget,
        metavar="BYTES",
        help="search for the options with the lowest loss that keep at most this much of the "
        "file in memory, such as 24MB; they are those of int8",
    )
    group.add_argument(
        "--calibrate",
        metavar="FILE",
        help="text to fit to, with a line <|doc|> between documents "
        "(default: text that the model writes itself)",
    )
    group.add_argument(
        "--judge",
        metavar="FILE",
        nargs="+",
        action="extend",
        help="texts that nothing is fitted to: show the loss on each of them too",
    )


def _add_int4(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--parts",
        type=parts,
        metavar="PARTS",
        help="what --dtype int4 rounds: the large matrices of the layers (body, the default), the "
        "head too (body,head), the embedding too (body,embedding), or all; the rest is int8",
    )
    group.add_argument(
        "--likely-rows",
        type=rows,
        metavar="N",
        help="rows of a head in int4 that stay in int8, those of the likeliest tokens (default: "
        f"{LIKELY_ROWS}, but at most a quarter of the vocabulary)",
    )
    group.add_argument(
        "--round",
        action="store_true",
        help="round --dtype int4 to nearest, without a text: in seconds, with a larger loss",
    )


def _add_projections(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--low-rank",
        type=divisor,
        metavar="K",
        help="factor receptance, key, value and gate with 1/K of their rank; "
        "1/4 and 4 mean the same",
    )
    group.add_argument(
        "--whiten",
        action="store_true",
        help="fit the factors of --low-rank to the inputs that occur",
    )
    group.add_argument(
        "--rank-budget",
        type=size_or_share,
        metavar="BYTES",
        help="factor with adaptive ranks: the size of all factors together, such as 4MB, "
        "or 70%% of the size before",
    )


def _add_channel_mix(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--sparse-ffn",
        choices=("exact", "predict"),
        help="exact: skip the values of neurons that do not fire, and compute the same bits; "
        "predict: read only the neurons that a 1-bit predictor chooses",
    )
    group.add_argument(
        "--keep",
        type=share,
        metavar="P",
        help=f"share of the neurons that predictors choose (default: {KEEP})",
    )
    group.add_argument(
        "--recall",
        type=share,
        metavar="P",
        help="choose the neurons that together have this share of the energy, such as 0.99",
    )
    group.add_argument(
        "--mlp",
        type=count,
        metavar="N",
        help="let a network of N units, such as 64, choose neurons too; it takes memory and time",
    )


def _add_head(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--head",
        choices=("preview",),
        help="preview all logits cheaply, then read only the best rows of the head exactly",
    )
    group.add_argument(
        "--head-rows",
        type=count,
        metavar="N",
        help=f"exact rows per token (default: {ROWS}, but at most a quarter of the vocabulary)",
    )
    group.add_argument("--head-clusters", type=int, metavar="N", help=argparse.SUPPRESS)


def read(arguments: argparse.Namespace) -> Options | None:
    """Return what the arguments ask for; None if they do not ask for compression.

    Raises
    ------
    ArgumentError
        They do not go together.
    """
    if arguments.head_clusters is not None:
        fix = "--head preview reads fewer bytes for the same loss: see docs/compression.md"
        sentence = "--head-clusters does not pay"
        raise _refused("--head-clusters", "a form of the head that pays", fix, sentence)
    _check_int4(arguments)
    given = {
        name: getattr(arguments, name) for name in Options._fields if _is_given(arguments, name)
    }
    if _is_int4(arguments) and not arguments.round:
        given["int4"] = arguments.parts or PARTS[0]
    options = _over_preset(arguments, given)
    if arguments.budget is not None:
        _check_budget(arguments, given)
    elif options._replace(seed=0, whiten=False) == Options():
        _check_nothing_to_fit(arguments)
        return None
    if arguments.round:
        fix = "leave --round out: int4 is fitted then"
        sentence = "--round does not go with options that compress"
        raise _refused("--round and others", "one of them", fix, sentence)
    if arguments.dtype not in (None, "int8", "int4"):
        raise ArgumentError(
            "arguments",
            "dtype",
            arguments.dtype,
            "int8 or int4",
            "leave --dtype out",
            f"compressed models are int8 or int4, and --dtype is {arguments.dtype}",
        )
    return options


def _is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Tell whether an argument was given: 0 is a value, False is a flag that was not."""
    value = getattr(arguments, name, None)
    return value is not None and value is not False


def _is_int4(arguments: argparse.Namespace) -> bool:
    """Tell whether matrices become int4: `--dtype` says it, or else the preset."""
    if arguments.dtype is None and arguments.preset is not None:
        return PRESETS[arguments.preset].int4 is not None
    return bool(arguments.dtype == "int4")


def _check_int4(arguments: argparse.Namespace) -> None:
    """Refuse arguments that are for int4 if that is not the type."""
    for name in ("parts", "likely_rows", "round"):
        if not _is_int4(arguments) and _is_given(arguments, name):
            flag, fix = _flag(name), "add --dtype int4"
            raise _refused(flag, "it together with --dtype int4", fix, f"{flag} is for int4")


def _over_preset(arguments: argparse.Namespace, given: dict[str, Any]) -> Options:
    """Return the options of the preset, and over them those that were given."""
    options = PRESETS[arguments.preset] if arguments.preset else Options()
    if not _is_int4(arguments):
        options = options._replace(int4=None)
    for name in given:
        gone: dict[str, Any] = dict.fromkeys(_INSTEAD.get(name, ()))
        options = options._replace(**gone)
    return options._replace(**given)


def _check_budget(arguments: argparse.Namespace, given: Iterable[str]) -> None:
    """Refuse options beside a budget, which chooses them itself."""
    clashes = ["preset"] if arguments.preset is not None else []
    clashes += [name for name in given if name != "seed"]
    if clashes:
        clash = "--dtype int4" if clashes[0] == "int4" else _flag(clashes[0])
        sentence = f"--budget and {clash} do not go together"
        fix = f"leave {clash} out: --budget searches the options"
        raise _refused(f"--budget and {clash}", "one of them", fix, sentence)


def _check_nothing_to_fit(arguments: argparse.Namespace) -> None:
    """Refuse arguments that only say how to compress, because nothing is compressed."""
    for name in ("calibrate", "judge", "whiten", "seed", "report"):
        if _is_given(arguments, name):
            flag, expected = _flag(name), "an option that compresses"
            fix = "add what is to be fitted, such as --low-rank 4"
            raise _refused(f"{flag} alone", expected, fix, f"{flag} alone does nothing")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refused(found: str, expected: str, fix: str, sentence: str) -> ArgumentError:
    return ArgumentError("arguments", "options", found, expected, fix, sentence)
