"""Measure what constraints cost for each token, beside the time that the model itself takes.

python benchmarks/constraints.py                 # the bundled model, 4,096 tokens
python benchmarks/constraints.py world.trwkv     # any model with a tokenizer

Every constraint generates twice. At first it knows nothing: each new state costs a walk over the
vocabulary. Then it is used again. The time of a token without a constraint is the mean of
`generate` on the same prompts. All times are processor times of the one thread that does the work,
so that other work on the machine hardly counts.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from tinyrwkv.robot.scripts import Scripts

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["student", "teacher", "robot"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
    },
    "required": ["name", "age", "kind", "tags"],
}

CASES = {
    "choice of 100": lambda: tinyrwkv.Choice(
        [f" place number {i} of the {i % 7}th floor" for i in range(100)]
    ),
    "robot scripts": Scripts,
    "JSON object": lambda: tinyrwkv.JsonSchema(PERSON),
    "quoted text of 200": lambda: tinyrwkv.Regex(r'"[^"\n]{200}"'),
    "any text": lambda: tinyrwkv.Regex("(.|\\n)*"),
}

COMMANDS = pathlib.Path(__file__).parent.parent / "tests" / "data" / "commands-human.txt"


class Timed:
    """A constraint that notes how long it takes for each token, in seconds."""

    def __init__(self, constraint: Any) -> None:
        self.constraint, self.times = constraint, list[float]()

    def start(self, model: tinyrwkv.Model) -> Any:
        """Return a walk; also notes its beginning, as a part of the first token."""
        begin = time.thread_time()
        walk, times = self.constraint.start(model), self.times
        spent = time.thread_time() - begin

        class Walk:
            def mask(self, logits: Any, exact: Any = None) -> None:
                begin = time.thread_time()
                walk.mask(logits, exact)
                times.append(time.thread_time() - begin + (spent if not times else 0.0))

            def advance(self, token: int) -> bool:
                begin = time.thread_time()
                going_on: bool = walk.advance(token)
                times[-1] += time.thread_time() - begin
                return going_on

        return Walk()


def generate(
    model: tinyrwkv.Model, prompts: list[str], constraint: Any, tokens: int
) -> list[float]:
    """Answer every prompt; return the seconds of each token but the first of an answer."""
    seconds = []
    sampler = tinyrwkv.Sampler(
        temperature=1, seed=1, logit_bias={0: -float("inf")} if constraint is None else None
    )
    for prompt in prompts:
        before = None
        ways = {"constraint": constraint, "lookup": False}
        for _ in model.generate(prompt, sampler=sampler, max_tokens=tokens, **ways):
            now = time.thread_time()
            if before is not None:
                seconds.append(now - before)
            before = now
    return seconds


def measure(
    model: tinyrwkv.Model, prompts: list[str], name: str, tokens: int, decode: float
) -> dict[str, Any]:
    """Return the costs of one constraint."""
    begin = time.thread_time()
    constraint = CASES[name]()
    report: dict[str, Any] = {
        "constraint": name,
        "build_ms": round((time.thread_time() - begin) * 1e3, 2),
    }
    for pass_ in ("first", "again"):
        timed = Timed(constraint)
        generate(model, prompts, timed, tokens)
        mean = statistics.fmean(timed.times)
        report |= {
            "tokens": len(timed.times),
            f"{pass_}_us": round(mean * 1e6, 1),
            f"{pass_}_max_us": round(max(timed.times) * 1e6, 1),
            f"{pass_}_share": round(mean / decode, 4),
        }
    return report


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=())
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=".trwkv file; the bundled model by default"
    )
    parser.add_argument(
        "--backend", default="auto", help="native, numba, numpy (default: the best here)"
    )
    parser.add_argument(
        "--tokens", type=int, default=60, metavar="N", help="of an answer at most (default: 60)"
    )
    parser.add_argument(
        "--prompts", type=int, default=20, metavar="N", help="to answer (default: 20)"
    )
    options = parser.parse_args(argv)
    commands = COMMANDS.read_text().split("<|doc|>\n")[: options.prompts]
    prompts = [command.partition("Assistant:")[0] + "Assistant:" for command in commands]
    about = common.machine()
    model = tinyrwkv.load(options.model, backend=options.backend, threads=1)
    generate(model, prompts, None, 8)  # reads the file in
    decode = statistics.fmean(generate(model, prompts, None, options.tokens))
    begin = time.thread_time()
    tinyrwkv.Choice(["a"]).start(model)
    tree = time.thread_time() - begin
    runs = [measure(model, prompts, name, options.tokens, decode) for name in CASES]
    result = {
        "machine": about,
        "model": pathlib.Path(model.path).name,
        "vocab_size": model.config["vocab_size"],
        "backend": model.backend.name,
        "prompts": len(prompts),
        "decode_us": round(decode * 1e6, 1),
        "tree_ms": round(tree * 1e3, 2),
        "runs": runs,
    }
    rows = [
        (
            *(run["constraint"], run["build_ms"], run["tokens"]),
            *(run["first_us"], run["first_max_us"], f"{run['first_share']:.1%}"),
            *(run["again_us"], run["again_max_us"], f"{run['again_share']:.1%}"),
        )
        for run in runs
    ]
    head = (
        "us for a token",
        "build ms",
        "tokens",
        "first",
        "at most",
        "of decode",
        "again",
        "at most",
        "of decode",
    )
    text = f"{result['model']}: {decode * 1e6:.0f} us a token, "
    text += f"{tree * 1e3:.1f} ms once for the tree of the vocabulary\n"
    common.finish(
        f"constraints-{result['vocab_size']}", options, result, text + common.table(rows, head)
    )


if __name__ == "__main__":
    common.run(main)
