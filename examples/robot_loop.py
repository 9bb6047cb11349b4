"""A robot that listens while it moves: a control loop of 20 Hz, and a model that thinks in what each tick leaves over.

    python3 examples/robot_loop.py                                  # type commands; an empty line ends
    python3 examples/robot_loop.py --say "bring me the red cup from the kitchen" --say "stop"
    python3 examples/robot_loop.py --measure 60                     # the latency of the loop over a minute
    python3 examples/robot_loop.py --judge commands.txt --json      # right scripts, precision against coverage
    python3 examples/robot_loop.py --choose some.txt --judge others.txt    # with a threshold chosen on other text

The heart of it: the loop keeps its period whatever the model does, because the model stops when it is told to::

    robot.step(period)                                  # what must be done in every tick
    decision = commander.work(due + period - margin)    # what may take as long as it likes

Only scripts come out that the grammar allows, with the world's own names and bounds (`simulated_robot.py`). A text with
the word stop halts the robot at once, without asking the model. What the model is not sure of is only a question:
Did you mean ...? A file to judge has documents of "User: ...", "Assistant: ..." and lines <|doc|> between them, as
benchmarks/commands.py writes them; what it tells of a threshold says something only if that was chosen on other text.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

try:
    import tinyrwkv
    from tinyrwkv.robot.commander import THRESHOLD, Commander, Decision, says_only_stop, says_stop
    from tinyrwkv.robot.confidence import Point, calibrate, curve
    from tinyrwkv.robot.scripts import Scripts
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("NumPy is missing: apt install python3-numpy, or pip install numpy")

from simulated_robot import Robot

YES = {"y", "yes", "yes please", "right", "ok", "do it"}


class Loop:
    """The control loop.

    Parameters
    ----------
    robot : Robot
    commander : Commander
    tell : callable
        Takes what the robot says to its user.
    hz : float, optional
        Ticks a second.
    margin : float, optional
        Seconds before the next tick at which the model must have stopped.

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
    ) -> None:
        self.robot, self.commander, self.tell = robot, commander, tell
        self.period, self.margin = 1 / hz, margin
        self.late: list[float] = []
        self._due = time.monotonic()
        self._asked: Decision | None = None
        self._told = 0

    def hear(self, text: str) -> None:
        """Take what the user says."""
        if says_stop(text):
            self.robot.halt()
            self.commander.forget()
            self._asked = None
            self.tell("stopped")
            if says_only_stop(text):
                return
        if self._asked is not None and text.strip(" .!").lower() in YES:
            self.robot.run(self._asked.calls)
        elif text.strip():
            self.commander.hear(text)
        self._asked = None

    def tick(self) -> None:
        """Wait for the time of the next tick, control, and think until the margin."""
        self._due += self.period
        wait = self._due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        now = time.monotonic()
        self.late.append(now - self._due)
        if now - self._due > self.period:  # a tick was lost: do not hurry after it
            self._due = now
        self.robot.step(self.period)
        for text in self.robot.said[self._told :]:
            self.tell(text)
        self._told = len(self.robot.said)
        decision = self.commander.work(self._due + self.period - self.margin)
        if decision is not None:
            self._decide(decision)

    def _decide(self, decision: Decision) -> None:
        if decision.kind == "run":
            self.tell(decision.script)
            self.robot.run(decision.calls)
        elif decision.kind == "ask":
            self.tell(f"Did you mean {decision.script} ?")
            self._asked = decision
        else:
            self.tell("I do not know how to do that.")


def percentiles(late: list[float]) -> dict[str, float]:
    """Return how late ticks were, in milliseconds; the first, in which memory is still cold, is left out."""
    ordered = sorted(late[1:])
    parts = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {
        name: round(1e3 * ordered[min(int(part * len(ordered)), len(ordered) - 1)], 3)
        for name, part in parts.items()
    }


def documents(path: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a file and their scripts."""
    for document in pathlib.Path(path).read_text("utf-8").split("<|doc|>"):
        if document.strip():
            command, _, script = document.strip().partition("\n\nAssistant:")
            yield command.removeprefix("User:").strip(), script.strip()


class Answer(NamedTuple):
    """What the model made of a command whose script is known."""

    logprob: float
    right: bool
    valid: bool


def answers(model: tinyrwkv.Model, path: str) -> list[Answer]:
    """Return what comes of the commands of a file, by the grammar of any world."""
    scripts = Scripts()  # not this world's names: the file is not about it
    commander, found = Commander(model, scripts, max_tokens=200), list[Answer]()
    for command, script in documents(path):
        commander.hear(command)
        decision = commander.work(float("inf"))
        assert decision is not None
        valid = scripts.matches(f" {decision.script}\n\n")
        found.append(Answer(decision.logprob, decision.script == script, valid))
    return found


def right_without(model: tinyrwkv.Model, path: str) -> int:
    """Return how many scripts of a file are right where no grammar helps."""
    count, greedy = 0, tinyrwkv.Sampler(temperature=0)
    for command, script in documents(path):
        free = model.generate(
            f"User: {command}\n\nAssistant:", sampler=greedy, stop=["\n\n"], max_tokens=200
        )
        count += "".join(piece.text for piece in free).strip() == script
    return count


def choose(model: tinyrwkv.Model, path: str, precision: float) -> Point:
    """Return the threshold that trusts most answers of a file with at least this precision."""
    found = answers(model, path)
    return calibrate(
        [answer.logprob for answer in found], [answer.right for answer in found], precision
    )


def judge(model: tinyrwkv.Model, path: str, threshold: float) -> dict[str, Any]:
    """Return how many scripts of a file are right, and what trusting those above the threshold gives."""
    found = answers(model, path)
    points = curve([answer.logprob for answer in found], [answer.right for answer in found])
    shown = [
        next(point for point in points if point.coverage >= share)
        for share in (0.1, 0.25, 0.5, 0.75, 0.9, 1)
    ]
    trusted = [answer.right for answer in found if answer.logprob >= threshold]
    return {
        "commands": len(found),
        "valid": sum(answer.valid for answer in found),
        "right_with_grammar": sum(answer.right for answer in found),
        "right_without": right_without(model, path),
        "threshold": threshold,
        "trusted": len(trusted),
        "trusted_right": sum(trusted),
        "coverage": len(trusted) / len(found),
        "precision": sum(trusted) / len(trusted) if trusted else None,
        "curve": [point._asdict() for point in shown],
    }


def listen(loop: Loop) -> Iterator[str | None]:
    """Yield what is typed, None where nothing is; a thread of its own waits for it."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.strip())
        lines.put("")

    threading.Thread(target=read, name="listen", daemon=True).start()
    while True:
        try:
            line = lines.get_nowait()
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield line


MEASURED = (
    "bring me the red cup from the kitchen",
    "go forward two meters and then turn left",
    "take the hammer to the lab",
)


def commands(options: argparse.Namespace, loop: Loop) -> Iterator[str | None]:
    """Yield one text or None for every tick, until it is time to end."""
    if options.measure is not None:
        for tick in range(round(options.measure / loop.period)):
            yield None if loop.commander.thinking else MEASURED[tick % len(MEASURED)]
    elif options.say:
        for text in options.say:
            yield text
            while loop.commander.thinking:
                yield None
        while loop.robot.busy:
            yield None
    else:
        yield from listen(loop)


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a .trwkv file; by default the bundled model"
    )
    parser.add_argument(
        "--say", action="append", metavar="TEXT", help="a command; may be given several times"
    )
    parser.add_argument(
        "--measure", type=float, metavar="SECONDS", help="keep the model thinking for so long"
    )
    parser.add_argument("--judge", metavar="FILE", help="compare scripts with those of a file")
    parser.add_argument(
        "--choose", metavar="FILE", help="choose the threshold on a file, not the one to judge"
    )
    parser.add_argument(
        "--precision", type=float, default=0.9, metavar="P", help="to choose for (default: 0.9)"
    )
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="L", help="default: %(default)s"
    )
    parser.add_argument("--hz", type=float, default=20, help="ticks a second (default: 20)")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.004,
        metavar="S",
        help="of a tick, kept free (default: 0.004)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(argv)
    if options.choose is not None and options.choose == options.judge:
        parser.error(
            "--choose and --judge need different text: on its own a threshold looks better than it is"
        )
    if not options.hz > 0 or not 0 <= options.margin < 1 / options.hz:
        parser.error("--hz must be above 0, --margin shorter than a tick")
    try:
        model = tinyrwkv.load(options.model, prefault=True, lock=True)
        if options.judge is not None or options.choose is not None:
            report: dict[str, Any] = {}
            if options.choose is not None:
                report["chosen"] = choose(model, options.choose, options.precision)._asdict()
                options.threshold = report["chosen"]["threshold"]
            if options.judge is not None:
                report |= judge(model, options.judge, options.threshold)
            print(json.dumps(report, indent=None if options.json else 1))
            return 0
        robot = Robot()
        commander = Commander(model, robot.grammar(), options.threshold)
        gc.freeze()  # what is there now is never garbage: the loop need not look at it again
        loop = Loop(
            robot,
            commander,
            lambda text: print(f"robot: {text}", flush=True),
            options.hz,
            options.margin,
        )
        if options.measure is not None:
            loop.tell = lambda text: None
        for text in commands(options, loop):
            if text is not None:
                loop.hear(text)
            loop.tick()
        report = {"ticks": len(loop.late), "hz": options.hz, "late_ms": percentiles(loop.late)}
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
