"""``tinyrwkv generate``: continue a text."""

from __future__ import annotations

import argparse
import sys

from ... import Sampler, State
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
      for programs: JSON objects, one a line, piece by piece (docs/events.md)

Standard output gets the continuation and nothing else.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "-p",
        "--prompt",
        required=True,
        metavar="TEXT",
        help="what to continue, sent as it is; - reads standard input",
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        default=100,
        metavar="N",
        help="tokens at most (default: 100)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="S",
        help="end before this text; may be given several times",
    )
    parser.add_argument(
        "--state", metavar="FILE", help="go on from a saved state instead of a new document"
    )
    parser.add_argument("--save-state", metavar="FILE", help="save the state after the text")
    parser.add_argument(
        "--json", action="store_true", help="print events: piece, end, stats; no notes"
    )
    parser.add_argument("--quiet", action="store_true", help="no notes on standard error")
    shared.add_sampling(parser, "temperature 1, nothing left out, another seed each time")
    shared.add_loading(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    sampler = Sampler(**shared.sampling(options))
    model = shared.loaded(options)
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.read()
    state = None if options.state is None else State.load(options.state, model)
    settings = {"sampler": sampler, "max_tokens": options.max_tokens, "stop": options.stop}
    generation = model.generate(prompt, state=state, **settings)
    terminal, events = is_terminal(sys.stdout), Events(sys.stdout)
    for piece in generation:
        if options.json:
            events.piece(piece)
        else:
            print(printable(piece.text) if terminal else piece.text, end="", flush=True)
    if options.json:
        events.end(generation)
    elif terminal:
        print()
    result, times = generation.result, generation.result.timings
    if options.save_state is not None:
        result.state.save(options.save_state)
    if not (options.quiet or options.json):
        speeds = [f"prompt {times['prompt_tokens']} tokens in {times['prompt_seconds']:.2f} s"]
        speeds += [
            f"{times['tokens']} tokens in {times['seconds']:.2f} s",
            f"ended by {result.stop_reason}",
        ]
        print("; ".join(speeds), file=sys.stderr)
    return 0
