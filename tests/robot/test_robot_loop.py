"""examples/robot_loop.py: the loop keeps its time, the robot does what scripts say."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from benchmarks import commands
from tinyrwkv.robot.commander import Commander, Decision
from tinyrwkv.robot.scripts import VERBS, Call, Scripts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def robot_loop():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("robot_loop", EXAMPLES / "robot_loop.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["robot_loop"] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


class Time:
    """A clock that only moves when somebody sleeps or works, and sleeps a little too long."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + 0.0001


class Thinker:
    """A commander that takes a number of slices, each as long as it may be."""

    def __init__(
        self, clock: Time, decisions: dict[str, Decision], slices: int = 3, too_long: float = 0.0
    ) -> None:
        self.clock, self.decisions, self.slices, self.too_long = clock, decisions, slices, too_long
        self.thinking, self.heard = False, list[str]()

    def hear(self, command: str) -> None:
        self.heard.append(command)
        self.thinking, self.left = True, self.slices

    def forget(self) -> None:
        self.thinking = False

    def work(self, deadline: float) -> Decision | None:
        if not self.thinking:
            return None
        assert deadline > self.clock.now
        self.clock.now = deadline + self.too_long
        self.left -= 1
        if self.left:
            return None
        self.thinking = False
        return self.decisions[self.heard[-1]]


RUN = Decision("run", "move(1)", [Call("move", 1.0)], -0.1)
ASK = Decision("ask", "turn(90)", [Call("turn", 90.0)], -3.0)
UNKNOWN = Decision("unknown", "unknown()", [], -0.1)


@pytest.fixture
def made(robot_loop, monkeypatch):
    clock, told = Time(), list[str]()
    monkeypatch.setattr(robot_loop, "time", clock)
    thinker = Thinker(clock, {"go": RUN, "spin": ASK, "sing": UNKNOWN, "yes": UNKNOWN})
    loop = robot_loop.Loop(robot_loop.Robot(), thinker, told.append, hz=20, margin=0.004)
    return loop, thinker, clock, told


def test_the_loop_keeps_its_period_while_the_model_thinks(made):
    loop, thinker, clock, _ = made
    for i in range(200):
        if not thinker.thinking:
            loop.hear("go")
        loop.tick()
        assert clock.now <= 100 + 0.05 * (i + 2) - 0.004 + 1e-9
    assert max(loop.late) == pytest.approx(0.0001) and len(loop.late) == 200
    assert clock.now == pytest.approx(100 + 0.05 * 201, abs=0.06)


def test_a_slice_that_takes_too_long_is_counted_and_not_hurried_after(made, robot_loop):
    loop, thinker, _, _ = made
    thinker.too_long = 0.104
    loop.hear("go")
    for _ in range(5):
        loop.tick()
    assert sum(late > 0.05 for late in loop.late) == 3
    loop.late.append(0.0)
    assert robot_loop.percentiles(loop.late)["max"] == pytest.approx(100, abs=0.5)


def test_decisions_are_done_asked_or_declined(made):
    loop, thinker, _, told = made

    def say(text: str) -> None:
        loop.hear(text)
        while thinker.thinking:
            loop.tick()

    say("go")
    assert told == ["move(1)"] and loop.robot.busy
    while loop.robot.busy:
        loop.tick()
    assert loop.robot.x == pytest.approx(1)
    say("sing")
    assert "do not know" in told[-1] and not loop.robot.busy
    say("spin")
    assert told[-1] == "Did you mean turn(90) ?" and not loop.robot.busy
    say("Yes!")
    assert loop.robot.busy and thinker.heard == ["go", "sing", "spin"]
    say("spin")
    say("go")  # no answer to the question
    say("yes")
    assert thinker.heard[-2:] == ["go", "yes"]


def test_stop_needs_no_model(made):
    loop, thinker, _, told = made
    loop.hear("go")
    while not loop.robot.busy:
        loop.tick()
    loop.hear("go")
    loop.hear("Stop!")
    assert not loop.robot.busy and not thinker.thinking and told[-1] == "stopped"
    loop.hear("stop and go")
    assert thinker.thinking and thinker.heard[-1] == "stop and go"


# ---- the robot ----


@given(
    st.lists(
        st.sampled_from(
            [
                *(Call("move", x) for x in (-2.0, 0.5, 3.0)),
                *(Call("turn", a) for a in (90.0, -45.0, 360.0)),
            ]
        ),
        max_size=5,
    ),
    st.sampled_from([0.01, 0.05, 0.3]),
)
def test_where_a_robot_gets_does_not_depend_on_the_ticks(robot_loop, calls, tick):
    robot, x, y, heading = robot_loop.Robot(), 0.0, 0.0, 0.0
    robot.run(calls)
    for _ in range(20000):
        robot.step(tick)
        if not robot.busy:
            break
    for verb, amount in calls:
        if verb == "turn":
            heading += amount
        else:
            x += amount * math.cos(math.radians(heading))
            y += amount * math.sin(math.radians(heading))
    assert (robot.x, robot.y) == (pytest.approx(x, abs=1e-6), pytest.approx(y, abs=1e-6))
    assert math.cos(math.radians(robot.heading - heading)) == pytest.approx(1)


def test_a_robot_fetches(robot_loop):
    robot = robot_loop.Robot()
    script = (
        'goto("kitchen"); pick("red cup"); speed("fast"); goto("user"); release(); look("up"); '
        "photo()"
    )
    robot.run(robot.grammar().parse(script))
    for _ in range(2000):
        robot.step(0.05)
    assert not robot.busy and robot.objects["red cup"] == "user" and robot.holding is None
    assert robot.said == ["a picture of what is up"] and robot.speed == "fast" and robot.battery < 1
    robot.run(robot.grammar().parse('report("position"); dock(); say("hello"); stop(); move(5)'))
    for _ in range(2000):
        robot.step(0.05)
    assert robot.said[2] == "hello" and robot.battery == 1
    assert math.dist((robot.x, robot.y), robot.places["charging station"]) < 1e-6
    with pytest.raises(tinyrwkv.ArgumentError):
        robot.grammar().parse('goto("moon")')


# ---- the program ----


def test_it_runs(robot_loop, capsys):
    assert (
        robot_loop.main(["--say", "take a picture", "--hz", "200", "--margin", "0.001", "--json"])
        == 0
    )
    *told, last = capsys.readouterr().out.splitlines()
    assert told == ["robot: photo()", "robot: a picture of what is ahead"]
    assert json.loads(last)["ticks"] > 50 and set(json.loads(last)["late_ms"]) == {
        "p50",
        "p99",
        "p99.9",
        "max",
    }
    assert robot_loop.main(["--measure", "0.2", "--hz", "100"]) == 0
    assert json.loads(capsys.readouterr().out)["ticks"] == 20
    assert robot_loop.main(["no such file"]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.fixture
def written(tmp_path):
    """Write commands and scripts to a file."""

    def write(name: str, pairs: list[tuple[str, str]]) -> str:
        text = "".join(
            f"User: {said}\n\nAssistant: {script}\n\n<|doc|>\n" for said, script in pairs
        )
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_it_judges(robot_loop, capsys, written):
    pairs = [
        ("turn left", "turn(90)"),
        ("take a picture", "photo()"),
        ("go to the kitchen", "dock()"),
    ]
    path = written("judged.txt", pairs)
    assert list(robot_loop.documents(path)) == pairs
    assert robot_loop.main(["--judge", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["commands"], told["valid"], told["right_with_grammar"], told["right_without"]) == (
        3,
        3,
        2,
        2,
    )
    assert told["curve"][-1]["coverage"] == 1 and told["curve"][-1]["precision"] == pytest.approx(
        2 / 3
    )
    assert (told["trusted"], told["trusted_right"], told["coverage"]) == (
        3,
        2,
        1,
    ) and "chosen" not in told
    assert told["precision"] == pytest.approx(2 / 3)


def test_a_threshold_is_chosen_on_other_text_than_it_is_judged_on(robot_loop, capsys, written):
    judged = written("judged.txt", [("turn left", "turn(90)"), ("take a picture", "dock()")])
    other = written(
        "other.txt", [("take a picture", "photo()"), ("turn left", "dock()")]
    )  # the picture is surer
    assert robot_loop.main(["--choose", other, "--judge", judged, "--precision", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["chosen"]["coverage"], told["chosen"]["precision"]) == (0.5, 1)
    assert told["threshold"] == told["chosen"]["threshold"]
    assert (told["trusted"], told["trusted_right"], told["precision"]) == (1, 0, 0)
    assert robot_loop.main(["--choose", other, "--precision", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["coverage"] == 1
    with pytest.raises(SystemExit):
        robot_loop.main(["--choose", judged, "--judge", judged])
    assert "different text" in capsys.readouterr().err
    wrong = written("wrong.txt", [("turn left", "dock()")])
    assert robot_loop.main(["--choose", wrong]) == 1
    assert "ask for less" in capsys.readouterr().err


def test_reworded_commands_have_scripts_and_are_nobody_elses(robot_loop, capsys, tmp_path):
    commands.main(["--count", "400"])
    path = tmp_path / "reworded.txt"
    path.write_text(capsys.readouterr().out)
    pairs, scripts = list(robot_loop.documents(str(path))), Scripts()
    assert len(pairs) == 400 and 20 < sum(script == "unknown()" for _, script in pairs) < 120
    for _, script in pairs:
        scripts.parse(script)
    assert {call.verb for _, script in pairs for call in scripts.parse(script)} == set(VERBS) - {
        "stop"
    }
    human = Path(__file__).parents[1] / "data" / "commands-human.txt"
    assert not {said.lower() for said, _ in pairs} & {
        said.lower() for said, _ in robot_loop.documents(str(human))
    }
    commands.main(["--count", "400"])
    assert capsys.readouterr().out == path.read_text()


def test_the_world_fits_the_model(robot_loop):
    commander = Commander(tinyrwkv.load(), robot_loop.Robot().grammar())
    commander.hear("bring me the red cup from the kitchen")
    decision = commander.work(math.inf)
    assert decision.kind == "run"
    assert decision.script == 'goto("kitchen"); pick("red cup"); goto("user"); release()'
