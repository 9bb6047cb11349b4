"""``tinyrwkv generate``: continue a text."""

from __future__ import annotations

import argparse
import sys

from ... import Sampler, State
from ...errors import ArgumentError
from ...file.apart import check_apart
from ...file.output import STATE, check_output
from ...generate import Generation, Result
from ...model import Model
from ...state_file import check_dtype
from .. import options as shared
from ..events import Events
from ..terminal import is_terminal, printable

HELP = "continue a text"
EXAMPLES = """\
examples:
  tinyrwkv generate -p "Once upon a time" -n 200 --seed 1
  tinyrwkv generate model.trwkv -p "The capital of France is" -n 5 --temperature 0
  tinyrwkv generate model.trwkv -p - < prompt.txt > continuation.txt
  tinyrwkv generate -p $'User: turn left\\n\\nAssistant:' --temperature 0 --stop $'\\n\\n'
      a chat template written out: the prompt is sent as it is
  tinyrwkv generate -p "Once upon a time" --json
      for programs: JSON objects, one per line, piece by piece (docs/events.md)

Only the continuation goes to standard output.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "-p",
        "--prompt",
        required=True,
        metavar="TEXT",
        help="the text to continue, sent as it is; - reads it from standard input",
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        default=100,
        metavar="N",
        help="most tokens to generate (default: 100)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="S",
        help="stop before this text; may be given several times",
    )
    parser.add_argument(
        "--state", metavar="FILE", help="continue from a saved state instead of a new document"
    )
    parser.add_argument("--save-state", metavar="FILE", help="save the state after the text")
    shared.add_state_dtype(parser, "f32")
    parser.add_argument(
        "--json", action="store_true", help="print events: piece, end, stats; print no notes"
    )
    parser.add_argument("--quiet", action="store_true", help="print no notes on standard error")
    shared.add_sampling(parser, "temperature 1, no token left out, another seed each time")
    shared.add_loading(parser)
    shared.add_guessing(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    sampler = Sampler(**shared.sampling(options))
    model = shared.loaded(options)
    _check_saving(options, model)
    generation = model.generate(
        sys.stdin.read() if options.prompt == "-" else options.prompt,
        state=None if options.state is None else State.load(options.state, model),
        sampler=sampler,
        max_tokens=options.max_tokens,
        stop=options.stop,
    )
    if options.json:
        _print_events(generation)
    else:
        _print_text(generation)
    if options.save_state is not None:
        generation.result.state.save(options.save_state, options.state_dtype or "f32")
    if not (options.quiet or options.json):
        print(_speeds(generation.result), file=sys.stderr)
    return 0


def _check_saving(options: argparse.Namespace, model: Model) -> None:
    """Refuse, before anything is generated, a state that could not be saved."""
    if options.save_state is not None:
        inputs = {"model": model.path, "state to continue": options.state}
        check_apart({"new state": options.save_state}, inputs)
        check_output(options.save_state, STATE)
        check_dtype(options.save_state, options.state_dtype or "f32", model.config)
    elif options.state_dtype is not None:
        sentence = "--state-dtype is the type of a saved state, but none is saved"
        what = ("arguments", "options", "--state-dtype alone", "--save-state beside it")
        raise ArgumentError(*what, "add --save-state FILE", sentence)


def _print_events(generation: Generation) -> None:
    events = Events(sys.stdout)
    for piece in generation:
        events.piece(piece)
    events.end(generation)


def _print_text(generation: Generation) -> None:
    terminal = is_terminal(sys.stdout)
    for piece in generation:
        print(printable(piece.text) if terminal else piece.text, end="", flush=True)
    if terminal:
        print()


def _speeds(result: Result) -> str:
    times = result.timings
    notes = [
        f"prompt {times['prompt_tokens']} tokens in {times['prompt_seconds']:.2f} s",
        f"{times['tokens']} tokens in {times['seconds']:.2f} s",
        *([f"{result.accepted} of {result.proposed} guesses right"] if result.proposed else []),
        f"ended by {result.stop_reason}",
    ]
    return "; ".join(notes)
