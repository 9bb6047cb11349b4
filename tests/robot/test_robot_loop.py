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
from tinyrwkv.robot import guard
from tinyrwkv.robot.budget import Budget
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
DOUBT = Decision("ask", "turn(-90)", [Call("turn", -90.0)], -0.1, ("left is not right",))
REFUSE = Decision("refuse", "move(99)", [], -0.1, ("move(99) is too far",))
UNKNOWN = Decision("unknown", "unknown()", [], -0.1)
FAR = Decision("run", "move(20)", [Call("move", 20.0)], -0.1)
ROUND = Decision("run", "turn(720)", [Call("turn", 720.0)], -0.1)
DECISIONS = {
    **{"go": RUN, "spin": ASK, "doubt": DOUBT, "break out": REFUSE, "sing": UNKNOWN},
    **{"yes": UNKNOWN, "far": FAR, "right": ASK, "turn right": RUN, "round": ROUND},
}


@pytest.fixture
def made(robot_loop, monkeypatch):
    clock, told = Time(), list[str]()
    monkeypatch.setattr(robot_loop, "time", clock)
    thinker = Thinker(clock, DECISIONS)
    loop = robot_loop.Loop(robot_loop.Robot(), thinker, told.append, hz=20, margin=0.004)
    return loop, thinker, clock, told


def say(loop, text: str, seconds: float = 0) -> None:
    """Say something, let the commander come to a decision, and then let time pass."""
    loop.hear(text)
    while loop.commander.thinking:
        loop.tick()
    for _ in range(round(seconds / loop.period)):
        loop.tick()


def pose(robot) -> tuple[float, float, float]:
    return robot.x, robot.y, robot.heading


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
    assert robot_loop.percentiles(loop.late[:1]) == robot_loop.percentiles([]) == {}


def test_decisions_are_done_asked_or_declined(made):
    loop, thinker, _, told = made
    say(loop, "go")
    assert told == ["move(1)"] and loop.robot.busy
    while loop.robot.busy:
        loop.tick()
    assert loop.robot.x == pytest.approx(1)
    say(loop, "sing")
    assert "do not know" in told[-1] and not loop.robot.busy
    say(loop, "break out")
    assert told[-1] == "I will not do that: move(99) is too far." and not loop.robot.busy
    say(loop, "doubt")
    assert told[-1].startswith("left is not right. Did you mean turn(-90)?")
    say(loop, "spin")
    assert told[-1] == "Did you mean turn(90)? Say yes within 10 s." and not loop.robot.busy
    say(loop, "Yes!")
    assert loop.robot.busy and thinker.heard == ["go", "sing", "break out", "doubt", "spin"]
    say(loop, "spin")
    say(loop, "go")  # no answer to the question
    say(loop, "yes")
    assert thinker.heard[-2:] == ["go", "yes"]


@pytest.mark.parametrize("text", ["right", "turn right", "go"])
def test_what_may_be_an_order_is_no_yes(made, text):
    loop, thinker, _, _ = made
    say(loop, "spin")
    say(loop, text)
    assert thinker.heard == ["spin", text] and loop.robot.heading == 0


def test_a_question_expires(made):
    loop, thinker, _, told = made
    say(loop, "spin", 9.5)
    assert told[-1].endswith("Say yes within 10 s.")
    say(loop, "yes", 1)
    assert loop.robot.heading == pytest.approx(90)
    say(loop, "spin", 11)
    assert told[-1] == "I take that as a no."
    say(loop, "yes", 1)
    assert loop.robot.heading == pytest.approx(90) and thinker.heard[-1] == "yes"


def test_a_new_order_replaces_those_before_it(made):
    loop, _, _, told = made
    say(loop, "far", 2)
    say(loop, "round")
    assert [str(call) for call in loop.robot.waiting] == ["turn(720)"] and told[-1] == "turn(720)"
    x = loop.robot.x
    loop.tick()
    assert loop.robot.x == x and loop.robot.heading != 0


@pytest.mark.parametrize("text", ["then go", "After that, go", "and next go", "go after that"])
def test_an_order_for_later_waits_for_those_before_it(made, text):
    loop, thinker, _, _ = made
    say(loop, "go", 0.5)
    say(loop, text, 10)
    assert thinker.heard == ["go", "go"] and loop.robot.x == pytest.approx(2)


def test_orders_for_later_wait_for_the_thinking_too(made):
    loop, thinker, _, _ = made
    loop.hear("go")
    loop.hear("then round")
    loop.hear("then go")
    for _ in range(400):
        loop.tick()
    assert thinker.heard == ["go", "round", "go"] and loop.robot.x == pytest.approx(2)
    loop.hear("go")
    loop.hear("then round")
    loop.hear("go")  # instead of all that
    for _ in range(400):
        loop.tick()
    assert loop.robot.x == pytest.approx(3) and thinker.heard[-2:] == ["go", "go"]


def test_the_distance_of_many_orders_is_bounded(made):
    loop, _, _, told = made
    say(loop, "far", 3)
    say(loop, "then far")
    assert told[-1].startswith("I will not do that: that would be 4")
    assert told[-1].endswith("and 30 m are allowed.") and not loop.robot.busy
    loop.robot.speed = "fast"
    for _ in range(40):
        say(loop, "far", 2)  # 80 m in 80 s
    assert loop.robot.moved.metres <= 2 * 30
    say(loop, "sing", 61)
    say(loop, "far")
    assert told[-1] == "move(20)"


def test_no_yes_is_beyond_the_budget(made, robot_loop):
    _, thinker, _, told = made
    budget = Budget(degrees=100)
    loop = robot_loop.Loop(robot_loop.Robot(), thinker, told.append, budget=budget)
    for _ in range(3):
        say(loop, "spin", 1)
        say(loop, "yes", 1.5)
    assert loop.robot.moved.degrees == pytest.approx(90) and "100 degrees" in told[-1]


@pytest.mark.parametrize("text", ["sing", "break out", "spin", "then sing", "x" * 2000, "\ud800"])
def test_what_comes_to_no_script_stands_a_moving_robot_still(made, monkeypatch, text):
    loop, thinker, _, _ = made
    real = thinker.hear

    def hear(command: str) -> None:
        tinyrwkv.load().tokenizer.encode(command)  # as a commander does: not all texts are text
        real(command)

    monkeypatch.setattr(thinker, "hear", hear)
    say(loop, "far", 1)
    assert loop.robot.busy
    say(loop, text)
    assert not loop.robot.busy and not thinker.thinking


STOPS = ("Stop!", "STOP", "please stop now", "halt", "freeze", "whoa", "stop and go")


SPELLINGS = (
    *(
        "s t o p",
        "s.t.o.p",
        "S-T-O-P!",
        "stooop",
        "STOPPP",
        "st\u200bop",
        "\uff33\uff34\uff2f\uff30",
        "sotp",
        "spot",
    ),
    *(
        "\U0001f6d1",
        "\u270b",
        "\u26d4",
        "wait",
        "no",
        "don't",
        "cancel",
        "abort",
        "look out",
        "watch out",
    ),
    *("danger", "hold on", "whoa whoa", "EMERGENCY", "never mind", "stand still", "stop stop stop"),
)


def test_whatever_the_guard_takes_for_stop_stands_the_robot_still(made):
    loop, thinker, _, _ = made
    thinker.decisions = dict.fromkeys((*STOPS, *SPELLINGS), RUN) | DECISIONS
    understood = [text for text in (*STOPS, *SPELLINGS) if guard.says_stop(text)]
    assert {*STOPS} <= {*understood}
    for text in understood:
        say(loop, "go", 0.5)
        assert loop.robot.busy
        loop.hear("go")
        loop.hear(text)
        before = pose(loop.robot)
        loop.tick()
        assert pose(loop.robot) == before and not loop.robot.busy
        assert thinker.thinking != guard.says_only_stop(text)
        loop.commander.forget()
        say(loop, "sing", 61)


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


@pytest.mark.parametrize("text", STOPS)
def test_stop_stands_the_robot_still_within_a_tick(made, text):
    loop, thinker, _, _ = made
    thinker.decisions = {**DECISIONS, "stop and go": UNKNOWN}
    for ticks in range(12):  # while it thinks, while it moves, and both
        for second in ("", "far"):
            say(loop, "sing", 61)
            loop.hear("far")
            for _ in range(ticks):
                loop.tick()
            loop.hear(second)
            loop.hear(text)
            before = pose(loop.robot)
            for _ in range(10):
                loop.tick()
            assert pose(loop.robot) == before and not loop.robot.busy


@pytest.mark.parametrize("text", STOPS[:3])
def test_stop_stands_the_robot_still_while_a_real_model_thinks(robot_loop, text):
    told = list[str]()
    robot = robot_loop.Robot()
    commander = Commander(tinyrwkv.load(), robot.grammar())
    loop = robot_loop.Loop(robot, commander, told.append, hz=100, margin=0.001)
    say(loop, "turn left")
    assert told == ["turn(90)"] and robot.busy
    loop.tick()
    loop.hear("bring me the red cup from the kitchen")
    loop.tick()
    loop.hear(text)
    before = pose(robot)
    for _ in range(50):
        loop.tick()
    assert pose(robot) == before and before != (0, 0, 0)
    assert told[-1] == "stopped" and not commander.thinking


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


@pytest.mark.parametrize(
    ("script", "said", "holding"),
    [
        ('pick("red cup")', "I cannot pick the red cup: it is at the kitchen, 4.5 m away.", None),
        ('goto("office"); pick("red cup"); photo()', "I cannot pick the red cup: it is", None),
        (
            'goto("kitchen"); pick("red cup"); pick("bottle")',
            "I cannot pick the bottle: I hold",
            "red cup",
        ),
        ("release(); photo()", "I hold nothing.", None),
        ('follow("cat"); photo()', "I do not know where the cat is.", None),
        ('goto("kitchen"); pick("red cup"); place("table"); pick("red cup"); photo()', "a pic", 1),
        (
            'goto("kitchen"); pick("bottle"); place("table"); goto("user"); pick("bottle")',
            "I cannot pick the bottle: it is at the table, 4.5 m away.",
            None,
        ),
    ],
)
def test_what_a_robot_cannot_do_it_says(robot_loop, script, said, holding):
    robot = robot_loop.Robot()
    robot.run(robot.grammar().parse(script))
    robot.step(1000)
    assert len(robot.said) == 1 and robot.said[0].startswith(said) and not robot.busy
    assert robot.holding == ("red cup" if holding == 1 else holding)


def test_a_robot_knows_how_far_a_script_would_take_it(robot_loop):
    robot = robot_loop.Robot()
    robot.run(robot.grammar().parse("move(2); turn(-90)"))
    robot.step(1)
    calls = robot.grammar().parse('move(-1); turn(45); goto("user"); wait(3)')
    assert robot.ahead(calls).metres == pytest.approx(1 + math.hypot(0.5, 0))
    assert robot.ahead(calls, later=True).metres > 1.5 + 1
    before = pose(robot), robot.moved, list(robot.waiting)
    assert before == (pose(robot), robot.moved, list(robot.waiting))
    planned = robot.ahead(calls, later=True)
    begun = robot.moved
    robot.run(calls)
    robot.step(1000)
    assert robot.moved.metres - begun.metres == pytest.approx(planned.metres)
    assert robot.moved.degrees - begun.degrees == pytest.approx(planned.degrees)


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
    for name in ("without_guard", "with_guard"):
        assert told[name]["curve"][-1]["coverage"] == 1
        assert told[name]["curve"][-1]["precision"] == pytest.approx(2 / 3)
        assert (told[name]["run_right"], told[name]["run_wrong"]) == (2, 1)
    assert "chosen" not in told


def test_a_judge_tells_what_the_guard_adds(robot_loop, capsys, written):
    pairs = [
        ("turn left", "turn(90)"),
        ("go forward 30 meters", "move(30)"),
        ("lift the ban", "unknown()"),
    ]
    path = written("judged.txt", pairs)
    assert robot_loop.main(["--judge", path, "--json", "--threshold", "-1000"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name in ("without_guard", "with_guard"):
        counts = {kind: told[name][kind] for kind in robot_loop.OUTCOMES}
        assert sum(counts.values()) == len(pairs)
        assert counts["refuse"] == 1 and counts["run_right"] == 1
    assert told["with_guard"]["run_wrong"] == 0


def test_a_threshold_is_chosen_on_other_text_than_it_is_judged_on(robot_loop, capsys, written):
    judged = written("judged.txt", [("turn left", "turn(90)"), ("take a picture", "dock()")])
    other = written(
        "other.txt", [("take a picture", "photo()"), ("turn left", "dock()")]
    )  # the picture is surer
    assert robot_loop.main(["--choose", other, "--judge", judged, "--precision", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["chosen"]["coverage"], told["chosen"]["precision"]) == (0.5, 1)
    assert told["threshold"] == told["chosen"]["threshold"]
    assert (told["with_guard"]["run_right"], told["with_guard"]["run_wrong"]) == (0, 1)
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
