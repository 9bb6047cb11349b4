"""Measure what guessing tokens brings, beside its bars; every text is the same with and without.

python benchmarks/speculation.py world-66m.trwkv --text book.txt

MODEL writes a JSON object of 8 keys, which its schema leaves no choice about. The bundled model
answers orders with the scripts of a robot. Random weights of the shape that the options give are
told what to say: a text of this file with one word changed, which follows the text itself, then
TEXT as it is. So these figures do not depend on what a model would say, only on what it costs to
read it. A token is chosen as always, by the sampler. Each figure is the median over turns: both
ways answer one after the other, and their times are divided. With one thread, these are times of
the processor, so that other work on the machine counts for less. The first table shows what it
costs to read a few tokens at once, with random weights of two sizes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common, small_chunks
from benchmarks.promises import Check
from tinyrwkv import JsonSchema, Sampler
from tinyrwkv.generate import ConstraintWalk, Generation, TokenConstraint
from tinyrwkv.robot.scripts import Scripts

ROOT = pathlib.Path(__file__).resolve().parent.parent

SHAPES = ("12x768", "24x2048")
"""Layers and channels of RWKV-7 with 0.1 and 1.5 billion weights."""

BOOLEANS = ("is_raining", "is_windy", "needs_umbrella", "road_is_wet")
NUMBERS = ("temperature", "humidity_percent", "wind_speed", "visibility_km")
SCHEMA = {
    "type": "object",
    "properties": {
        **{name: {"type": "boolean"} for name in BOOLEANS},
        **{name: {"type": "integer", "minimum": 0, "maximum": 99} for name in NUMBERS},
    },
    "required": [*BOOLEANS, *NUMBERS],
}
QUESTION = "User: Describe the weather of today as JSON.\n\nAssistant:"

ORDERS = (
    "turn left",
    "go to the kitchen and take a photo",
    "bring me the red cup",
    "move 2 metres",
)

SHORT = 5
"""How many times as many turns the bundled model takes, whose generations are short."""

STORY = """
An old man lived at the edge of a small town, in a house with a green door. Every morning he walked
down to the harbour, sat on a stone wall, and counted the boats that came in. He wrote each number
into a little book with a blue cover, together with the weather and the names of the birds that he
saw. Nobody knew why he did it. One day a girl who had moved there in spring asked him. He looked at
the water for a while before he spoke. My brother went out to sea forty years ago, he said, and he
promised to come back on a day without wind. So I look for such a day. The girl thought about this.
Then she sat down next to him and said that two people could count more boats than one. From that
day on there were two of them on the wall, and the book filled twice as fast. In autumn the girl
found a page on which he had drawn a boat with three sails. Is that the one? she asked. He smiled
and gave her the pencil. You may draw the wind, he said, since you are so good at noticing it.
"""
OLD_WORD, OTHER_WORD = "green", "yellow"


class Plain:
    """A constraint that does not tell what must follow."""

    def __init__(self, constraint: TokenConstraint) -> None:
        self.constraint = constraint

    def start(self, model: tinyrwkv.Model) -> ConstraintWalk:
        """Return a walk with the two methods that a walk must have."""
        walk = self.constraint.start(model)

        class Walk:
            mask = staticmethod(walk.mask)
            advance = staticmethod(walk.advance)

        return Walk()


class Told(Sampler):
    """Chooses a token as always, then takes the one that it was told."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(temperature=0.7, top_p=0.9, seed=1)
        self.tokens = tokens
        self.count = 0

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        """Return the next token that was told."""
        _, logprob = super().sample(logits)
        self.count += 1
        return self.tokens[self.count - 1], logprob


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=(1,))
    common.add_model(parser)
    parser.add_argument("--text", metavar="FILE", help="prose (default: docs/recovery.md)")
    parser.add_argument(
        "--tokens", type=int, default=400, metavar="N", help="of the prose (default: 400)"
    )
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument(
        "--chunks-of",
        nargs="*",
        default=SHAPES,
        metavar="LxC",
        help=f"layers and channels for the first table (default: {' '.join(SHAPES)})",
    )
    options = parser.parse_args(argv)
    rows = small_chunks.of_shapes(options)
    checks: list[Check] = []
    for threads in options.threads:
        for check in all_checks(options, threads):
            about = f"{check.about}, {threads} thread{'s' if threads > 1 else ''}"
            checks.append(check._replace(about=about))
            print(*checks[-1].row, file=sys.stderr)
    told = [{**check._asdict(), "holds": check.holds} for check in checks]
    result = {"machine": common.machine(options.threads), "small_chunks": rows, "checks": told}
    names = ["times as fast", "found", "bar", "holds"]
    text = [small_chunks.table(rows), common.table([check.row for check in checks], names)]
    common.finish("speculation", options, result, "\n\n".join(text))


def all_checks(options: argparse.Namespace, threads: int) -> Iterator[Check]:
    """Yield all figures for a number of threads."""
    prose = pathlib.Path(options.text or ROOT / "docs" / "recovery.md").read_text("utf-8")
    turns = options.turns
    if options.model is not None:
        with tinyrwkv.load(options.model, threads=threads) as model:
            yield from of_json(model, turns)
            tokens = model.tokenizer.encode(prose)[: options.tokens]
            yield of_text("prose, MODEL", model, [], tokens, turns, least=0.97)
    with tinyrwkv.load(threads=threads) as model:
        yield of_scripts(model, turns)
        tokens = model.tokenizer.encode(prose)[: options.tokens]
        short = SHORT * turns
        yield of_text("prose, the bundled model", model, [], tokens, short, least=0.97)
    options.model, given = None, options.model
    with common.model_path(options) as path, tinyrwkv.load(path, threads=threads) as model:
        shape = f"random {options.arch}, {options.layers} layers of {options.width}"
        numbers = numbering(model.config["vocab_size"])
        story = [numbers(word) for word in words(STORY)]
        changed = [numbers(word) for word in words(STORY.replace(OLD_WORD, OTHER_WORD))]
        about = f"a text with one word changed, {shape}"
        yield of_text(about, model, story, changed, turns, least=1.5)
        tokens = [numbers(word) for word in words(prose)][: options.tokens]
        yield of_text(f"prose, {shape}", model, [], tokens, turns, least=0.97)
    options.model = given


def of_json(model: tinyrwkv.Model, turns: int) -> Iterator[Check]:
    """Yield what it brings that a schema leaves no choice about keys."""
    schemas = [JsonSchema(SCHEMA, prefix=" ") for _ in range(turns + 1)]

    def way(constraint: TokenConstraint) -> Callable[[], Generation]:
        return lambda: model.generate(
            QUESTION,
            sampler=Sampler(temperature=0),
            constraint=constraint,
            max_tokens=400,
            lookup=False,
        )

    used = schemas[0]
    for constraint in (Plain(used), used):
        way(constraint)().text()  # the masks are learnt, and how the model spells
    yield compare("JSON of 8 keys", way(Plain(used)), way(used), turns, least=1.6)
    for schema in schemas[1:]:
        schema.prepare(model)
    new = iter(schemas[1:])
    yield compare("JSON of 8 keys, at first use", way(Plain(used)), lambda: way(next(new))(), turns)


def of_scripts(model: tinyrwkv.Model, turns: int) -> Check:
    """Return what it brings that a robot's scripts have a grammar."""
    grammar = Scripts()
    grammar.prepare(model)
    orders = itertools.cycle(ORDERS)

    def way(constraint: TokenConstraint, order: str) -> Generation:
        prompt = f"User: {order}\n\nAssistant:"
        return model.generate(
            prompt, sampler=Sampler(temperature=0), constraint=constraint, stop="\n\n"
        )

    turns *= SHORT * len(ORDERS)
    asked = [next(orders) for _ in range(turns)]
    plain, guessed = iter(asked), iter(asked)
    return compare(
        "scripts of a robot, the bundled model",
        lambda: way(Plain(grammar), next(plain)),
        lambda: way(grammar, next(guessed)),
        turns,
        least=1.0,
    )


def of_text(
    about: str, model: tinyrwkv.Model, prompt: list[int], text: list[int], turns: int, least: float
) -> Check:
    """Return what a look-up brings for a text that the model is told to say after a prompt."""

    def way(lookup: bool) -> Generation:
        sampler = Told(text)
        return model.generate([1, *prompt], sampler=sampler, max_tokens=len(text), lookup=lookup)

    return compare(about, lambda: way(False), lambda: way(True), turns, least)


def compare(
    about: str,
    plain: Callable[[], Generation],
    guessed: Callable[[], Generation],
    turns: int,
    least: float | None = None,
) -> Check:
    """Return how many times as fast a generation is with guesses; the tokens must be the same."""
    ratios = []
    proposed = accepted = 0
    for _ in range(turns):
        results, seconds = [], []
        for way in (plain, guessed):
            generation = way()
            clock = time.thread_time if generation.model.backend.threads == 1 else time.perf_counter
            next(generation)  # it reads the prompt
            begin = clock()
            generation.text()
            seconds.append(clock() - begin)
            results.append(generation.result)
        if results[0].tokens != results[1].tokens:
            raise AssertionError(f"{about}: other tokens with guesses")
        ratios.append(seconds[0] / seconds[1])
        proposed += results[1].proposed
        accepted += results[1].accepted
    right = f"{accepted / proposed:.0%} of guesses right" if proposed else "no guesses"
    return Check(f"{about} ({right})", statistics.median(ratios), least=least)


def words(text: str) -> list[str]:
    """Return the words and marks of a text, as a tokenizer would cut them."""
    return re.findall(r" ?\w{1,7}|\s+|.", text)


def numbering(vocab_size: int) -> Callable[[str], int]:
    """Return a function that gives each word a token of its own."""
    known: dict[str, int] = {}
    spread = next(n for n in itertools.count(7919) if math.gcd(n, vocab_size - 2) == 1)
    return lambda word: 2 + known.setdefault(word, len(known) * spread % (vocab_size - 2))


if __name__ == "__main__":
    common.run(main)
