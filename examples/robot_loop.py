"""A robot that listens while it moves: a control loop of 20 Hz, and a model in the time left over.

    python3 examples/robot_loop.py                        # type orders; an empty line ends it
    python3 examples/robot_loop.py --say "bring me the red cup from the kitchen" --say "stop"
    python3 examples/robot_loop.py --measure 60           # measure how late ticks are, for a minute
    python3 examples/robot_loop.py --judge commands.txt --json          # count right scripts
    python3 examples/robot_loop.py --choose some.txt --judge others.txt # choose a threshold first

The loop keeps its period whatever the model does, because the model stops at its deadline::

    robot.step(period)                                  # what every tick must do
    decision = commander.work(due + period - margin)    # what may take as long as it likes

The grammar allows only scripts with the names of this world (`simulated_robot.py`). A text with the
word stop halts the robot at once, without the model. If the model is not sure or the guard objects,
the robot asks first: Did you mean ...? A new order replaces those before it, unless it begins or
ends with "then" or "after that". docs/robot.md has all the rules.

A file to judge has documents of "User: ..." and "Assistant: ...", with lines <|doc|> between them,
as benchmarks/commands.py writes them. The figures for a threshold are honest only if the threshold
was chosen on other text.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import json
import math
import pathlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

try:
    import tinyrwkv
    from tinyrwkv.robot.budget import Budget, Motion
    from tinyrwkv.robot.commander import THRESHOLD, Commander, Decision, says_only_stop, says_stop
    from tinyrwkv.robot.confidence import Point, calibrate, curve
    from tinyrwkv.robot.dialogue import says_yes, split_later
    from tinyrwkv.robot.scripts import Scripts
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("NumPy is missing: apt install python3-numpy, or pip install numpy")

from simulated_robot import Robot

QUESTION_SECONDS = 10.0
"""After that, a question is no longer open, and yes is no answer to it."""

LONGEST = 1000
"""Characters of an order. A longer text is none."""

MOST_LATER = 8
"""Orders that may wait until the one before them has a script."""


class Question(NamedTuple):
    """What the user was asked to say yes to."""

    decision: Decision
    later: bool
    until: float


class Loop:
    """The control loop.

    Parameters
    ----------
    robot : Robot
    commander : Commander
    tell : callable
        Takes the texts that the robot says to its user.
    hz : float, optional
        Ticks per second.
    margin : float, optional
        Seconds before the next tick at which the model must have stopped.
    budget : Budget, optional
        How far the robot may go and turn within some time.

    Attributes
    ----------
    late : list of float
        For each tick, how many seconds after its time it began.
    """

    def __init__(
        self,
        robot: Robot,
        commander: Commander,
        tell: Callable[[str], None],
        hz: float = 20,
        margin: float = 0.004,
        budget: Budget | None = None,
    ) -> None:
        self.robot = robot
        self.commander = commander
        self.tell = tell
        self.period = 1 / hz
        self.margin = margin
        self.late: list[float] = []
        self.budget = budget or Budget()
        self._due = time.monotonic()
        self._asked: Question | None = None
        self._later = False  # whether the order that is thought about comes after what is done now
        self._orders: deque[str] = deque()  # that come after that one
        self._told = 0
        self._moved = robot.moved

    def hear(self, text: str) -> None:
        """Take what the user says. A word like stop takes effect before this returns."""
        text = text.strip()
        asked = self._asked
        if len(text) > LONGEST:
            self._stand_still("That was too long.")
        elif says_stop(text):
            self._stand_still("stopped")
            if not says_only_stop(text):
                self._think(text, False)
        elif asked is not None and says_yes(text):
            self._asked = None
            self._run(asked.decision, asked.later)
        elif text:
            self._asked = None
            later, order = split_later(text)
            if later and self.commander.thinking and len(self._orders) < MOST_LATER:
                self._orders.append(order)
            else:
                self._orders.clear()
                self._think(order, later)

    def _think(self, order: str, later: bool) -> None:
        self._later = later
        try:
            self.commander.hear(order)
        except tinyrwkv.TinyRWKVError:
            self._stand_still("I could not read that.")

    def _stand_still(self, why: str) -> None:
        """End what the robot does, thinks and asks."""
        self.robot.halt()
        self.commander.forget()
        self._orders.clear()
        self._asked = None
        self.tell(why)

    def tick(self) -> None:
        """Wait for the next tick, move the robot, then let the model think until the margin."""
        self._due += self.period
        wait = self._due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        now = time.monotonic()
        self.late.append(now - self._due)
        if now - self._due > self.period:  # a whole tick was lost; do not try to make up for it
            self._due = now
        self._move(now)
        if self._asked is not None and now > self._asked.until:
            self._asked = None
            self.tell("I take that as a no.")
        decision = self.commander.work(self._due + self.period - self.margin)
        if decision is not None:
            self._decide(decision)

    def _move(self, now: float) -> None:
        """Let the robot go on, and take note of how far it went and of what it says."""
        self.robot.step(self.period)
        metres, degrees = self.robot.moved
        gone = Motion(metres - self._moved.metres, degrees - self._moved.degrees)
        self.budget.spend(gone, now)
        self._moved = self.robot.moved
        for text in self.robot.said[self._told :]:
            self.tell(text)
        self._told = len(self.robot.said)

    def _decide(self, decision: Decision) -> None:
        if decision.kind == "run":
            self.tell(decision.script)
            self._run(decision, self._later)
        elif decision.kind == "ask":
            self._ask(decision, self._later)
        elif decision.kind == "refuse":
            self._refuse(decision.reasons)
        else:
            self._stand_still("I do not know how to do that.")

    def _ask(self, decision: Decision, later: bool) -> None:
        """Ask whether to do something. Unless it is for later, the robot stands still meanwhile."""
        doubts = "".join(f"{reason}. " for reason in decision.reasons)
        question = f"{doubts}Did you mean {decision.script}? Say yes within {QUESTION_SECONDS:g} s."
        if later:
            self._orders.clear()
            self.tell(question)
        else:
            self._stand_still(question)
        self._asked = Question(decision, later, time.monotonic() + QUESTION_SECONDS)

    def _refuse(self, reasons: tuple[str, ...]) -> None:
        self._stand_still(f"I will not do that: {'; '.join(reasons)}.")

    def _run(self, decision: Decision, later: bool) -> None:
        """Do a script, now or later, if it fits into the budget."""
        ahead = self.robot.ahead(decision.calls, later)
        refused = self.budget.objections(ahead, time.monotonic())
        if refused:
            self._refuse(refused)
            return
        if not later:
            self.robot.halt()
        self.robot.run(decision.calls)
        if self._orders:
            self._think(self._orders.popleft(), True)


def percentiles(late: list[float]) -> dict[str, float]:
    """Return how late ticks were, in milliseconds; nothing if there was no second tick.

    The first tick is left out, because the memory that it uses is still cold.
    """
    ordered = sorted(late[1:])
    if not ordered:
        return {}
    last = len(ordered) - 1
    found = {}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)):
        place = min(int(share * len(ordered)), last)
        found[name] = round(1e3 * ordered[place], 3)
    return found


def documents(path: str) -> Iterator[tuple[str, str]]:
    """Yield the orders of a file and their scripts."""
    for document in pathlib.Path(path).read_text("utf-8").split("<|doc|>"):
        if document.strip():
            order, _, script = document.strip().partition("\n\nAssistant:")
            yield order.removeprefix("User:").strip(), script.strip()


class Answer(NamedTuple):
    """What the model made of an order whose script is known, and what the guard says to it."""

    logprob: float
    right: bool
    valid: bool
    guarded: Decision

    def kind(self, threshold: float, guard: bool) -> str:
        """Return what becomes of it: run, ask, refuse or unknown."""
        if self.guarded.kind in ("refuse", "unknown"):
            return self.guarded.kind
        doubt = guard and bool(self.guarded.reasons)
        return "ask" if doubt or self.logprob < threshold else "run"


def answers(model: tinyrwkv.Model, path: str) -> list[Answer]:
    """Return the model's answers to the orders of a file, under the grammar for any world."""
    scripts = Scripts()  # without the names of this world, because the file has other ones
    commander = Commander(model, scripts, max_tokens=200)
    found = []
    for order, script in documents(path):
        commander.hear(order)
        decision = commander.work(float("inf"))
        assert decision is not None
        valid = scripts.matches(f" {decision.script}\n\n")
        found.append(Answer(decision.logprob, decision.script == script, valid, decision))
    return found


def outcomes(found: list[Answer], threshold: float, guard: bool) -> dict[str, int]:
    """Count what becomes of answers, with the guard or without it."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for answer in found:
        kind = answer.kind(threshold, guard)
        named = kind if kind == "refuse" else f"{kind}_{'right' if answer.right else 'wrong'}"
        counts[named] += 1
    return counts


OUTCOMES = (
    *("run_right", "run_wrong", "ask_right", "ask_wrong"),
    *("refuse", "unknown_right", "unknown_wrong"),
)


def right_without(model: tinyrwkv.Model, path: str) -> int:
    """Return how many scripts of a file are right without a grammar."""
    greedy = tinyrwkv.Sampler(temperature=0)
    count = 0
    for order, script in documents(path):
        prompt = f"User: {order}\n\nAssistant:"
        pieces = model.generate(prompt, sampler=greedy, stop=["\n\n"], max_tokens=200)
        count += "".join(piece.text for piece in pieces).strip() == script
    return count


def choose(model: tinyrwkv.Model, path: str, precision: float) -> Point:
    """Return the threshold that runs most scripts of a file with at least this precision.

    Only scripts count that the guard lets run.
    """
    runs = [answer for answer in answers(model, path) if answer.kind(-math.inf, True) == "run"]
    return calibrate(
        [answer.logprob for answer in runs], [answer.right for answer in runs], precision
    )


def judge(model: tinyrwkv.Model, path: str, threshold: float) -> dict[str, Any]:
    """Return how many scripts of a file are right, and what becomes of them at a threshold."""
    found = answers(model, path)
    report: dict[str, Any] = {
        "commands": len(found),
        "valid": sum(answer.valid for answer in found),
        "right_with_grammar": sum(answer.right for answer in found),
        "right_without": right_without(model, path),
        "threshold": threshold,
    }
    for guard, name in ((False, "without_guard"), (True, "with_guard")):
        runs = [answer for answer in found if answer.kind(-math.inf, guard) == "run"]
        shares = runs_at_shares(runs, len(found))
        report[name] = {**outcomes(found, threshold, guard), "curve": shares}
    return report


def runs_at_shares(runs: list[Answer], count: int) -> list[dict[str, float]]:
    """Return precision against coverage, where coverage is the share of all orders that run."""
    points = curve([answer.logprob for answer in runs], [answer.right for answer in runs])
    shown = []
    for share in (0.1, 0.25, 0.4, 0.5, 0.6, 0.7):
        reached = (one for one in points if one.coverage * len(runs) >= share * count)
        shown += itertools.islice(reached, 1)
    shown += points[-1:]
    coverages = [point.coverage * len(runs) / count for point in shown]
    pairs = zip(shown, coverages, strict=True)
    return [{**point._asdict(), "coverage": coverage} for point, coverage in pairs]


def chosen_and_judged(model: tinyrwkv.Model, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report for --choose and --judge."""
    report: dict[str, Any] = {}
    threshold = options.threshold
    if options.choose is not None:
        point = choose(model, options.choose, options.precision)
        report["chosen"] = point._asdict()
        threshold = point.threshold
    if options.judge is not None:
        report |= judge(model, options.judge, threshold)
    return report


def listen() -> Iterator[list[str]]:
    """Yield the lines that were typed since the tick before. A thread of its own reads them."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.strip())
        lines.put("")

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # or else the thread ends at what is no text
    threading.Thread(target=read, name="listen", daemon=True).start()
    while True:
        waiting = [lines.get_nowait() for _ in range(lines.qsize())]
        end = "" in waiting
        yield waiting[: waiting.index("")] if end else waiting
        if end:
            return


MEASURED = (
    "bring me the red cup from the kitchen",
    "go forward two meters and then turn left",
    "take the hammer to the lab",
)


def orders(options: argparse.Namespace, loop: Loop) -> Iterator[list[str]]:
    """Yield what is said before every tick, until it is time to end."""
    if options.measure is not None:
        for tick in range(round(options.measure / loop.period)):
            yield [] if loop.commander.thinking else [MEASURED[tick % len(MEASURED)]]
    elif options.say:
        for text in options.say:
            yield [text]
            while loop.commander.thinking:
                yield []
        while loop.robot.busy:
            yield []
    else:
        yield from listen()


def say(text: str) -> None:
    """Print what the robot says."""
    print(f"robot: {text}", flush=True)


def say_nothing(text: str) -> None:
    """Be quiet, because only the time counts."""


def control(model: tinyrwkv.Model, options: argparse.Namespace) -> dict[str, Any]:
    """Run the loop; return how late its ticks were."""
    robot = Robot()
    commander = Commander(model, robot.grammar(), options.threshold)
    gc.freeze()  # objects that exist now are never garbage, so they need not be looked at again
    tell = say if options.measure is None else say_nothing
    loop = Loop(robot, commander, tell, options.hz, options.margin)
    for texts in orders(options, loop):
        for text in texts:
            loop.hear(text)
        loop.tick()
    return {"ticks": len(loop.late), "hz": options.hz, "late_ms": percentiles(loop.late)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a .trwkv file (default: the bundled model)")
    add("--say", action="append", metavar="TEXT", help="an order; may be given several times")
    add("--measure", type=float, metavar="SECONDS", help="keep the model thinking for this time")
    add("--judge", metavar="FILE", help="compare the model's scripts with those of a file")
    add(
        "--choose", metavar="FILE", help="choose the threshold on a file other than that of --judge"
    )
    precision = "share of trusted scripts that must be right, for --choose (default: 0.95)"
    add("--precision", type=float, default=0.95, metavar="P", help=precision)
    threshold = "log-probability from which a script is trusted (default: %(default)s)"
    add("--threshold", type=float, default=THRESHOLD, metavar="L", help=threshold)
    add("--hz", type=float, default=20, help="ticks per second (default: 20)")
    margin = "seconds of each tick that the model leaves free (default: 0.004)"
    add("--margin", type=float, default=0.004, metavar="S", help=margin)
    add("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(argv)
    if options.choose is not None and options.choose == options.judge:
        parser.error("--choose and --judge need different text, or the threshold looks too good")
    if not options.hz > 0 or not 0 <= options.margin < 1 / options.hz:
        parser.error("--hz must be above 0, and --margin shorter than a tick")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    options = parse(argv)
    try:
        model = tinyrwkv.load(options.model, prefault=True, lock=True)
        if options.judge is not None or options.choose is not None:
            report = chosen_and_judged(model, options)
            print(json.dumps(report, indent=None if options.json else 1))
        else:
            report = control(model, options)
            if options.json or options.measure is not None:
                print(json.dumps(report))
    except (tinyrwkv.TinyRWKVError, OSError) as error:
        print(f"robot_loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
