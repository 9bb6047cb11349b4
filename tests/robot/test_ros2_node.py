"""The ROS 2 node, against a stand-in for rclpy: ROS itself is not installed here.

The stand-in has only what the node uses of rclpy, with the names and arguments that Humble and
Jazzy document. Publishers are lists, and tests call back as an executor would. This does not show
that the node runs under a real executor.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

import tinyrwkv
from tests.helpers.places import ROOT
from tests.helpers.talkers import CAFE, LOOP, write_talker
from tinyrwkv.robot.scripts import Scripts

NODE = ROOT / "examples" / "ros2_node.py"


class String:
    """Stands in for std_msgs.msg.String: fields as keywords only."""

    def __init__(self, *, data: str = "") -> None:
        assert type(data) is str
        self.data = data


class Empty:
    """Stands in for std_msgs.msg.Empty."""


class Publisher:
    """Stands in for what create_publisher returns."""

    def __init__(self, kind: type) -> None:
        self.kind, self.sent = kind, []

    def publish(self, message: Any) -> None:
        assert type(message) is self.kind
        self.sent.append(message.data)


class StandInNode:
    """Stands in for rclpy.node.Node."""

    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self, node_name: str) -> None:
        assert node_name.isidentifier()
        self.name, self.publishers, self.callbacks, self.logged = node_name, {}, {}, []

    def declare_parameter(self, name: str, value: Any) -> Any:
        given = self.parameters.get(name, value)
        assert type(given) is type(value), f"{name} has the type of its default"
        return types.SimpleNamespace(value=given)

    def create_publisher(self, msg_type: type, topic: str, qos_profile: int) -> Publisher:
        self.publishers[topic] = Publisher(msg_type)
        return self.publishers[topic]

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[..., Any], qos_profile: int
    ) -> None:
        self.callbacks[topic] = msg_type, callback

    def get_logger(self) -> Any:
        return types.SimpleNamespace(info=self.logged.append)

    def deliver(self, topic: str, message: Any) -> None:
        """Call back as an executor does."""
        kind, callback = self.callbacks[topic]
        assert type(message) is kind
        callback(message)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the example with the stand-in in the place of ROS."""
    rclpy, node, executors = (
        types.ModuleType(name) for name in ("rclpy", "rclpy.node", "rclpy.executors")
    )
    std_msgs, messages = types.ModuleType("std_msgs"), types.ModuleType("std_msgs.msg")
    rclpy.ok = lambda: True
    node.Node, messages.String, messages.Empty = StandInNode, String, Empty
    executors.ExternalShutdownException = type("ExternalShutdownException", (Exception,), {})
    for made in (rclpy, node, executors, std_msgs, messages):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(StandInNode, "parameters", {})
    monkeypatch.setenv("TINYRWKV_BACKEND", "numpy")
    spec = importlib.util.spec_from_file_location("ros2_node", NODE)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    yield loaded


def brain(module: Any, **parameters: Any) -> Any:
    StandInNode.parameters.update(parameters)
    return module.Brain()


def answered(node: Any, count: int = 1, seconds: float = 20) -> list[str]:
    end = time.monotonic() + seconds
    while len(node.publishers["~/response"].sent) < count or len(node.logged) < count:
        assert time.monotonic() < end, "no response"
        time.sleep(0.005)
    return node.publishers["~/response"].sent


def test_it_is_short() -> None:
    tree = ast.parse(NODE.read_text("utf-8"))
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len(statements) <= 80  # with the docstrings; the formatter decides on lines


def test_a_prompt_is_answered(module: Any, tmp_path: pathlib.Path) -> None:
    node = brain(module, model=write_talker(tmp_path / "m.trwkv", CAFE, template="robot"))
    node.deliver("~/prompt", String(data="price?"))
    assert answered(node) == ["café costs €5"]
    assert "".join(node.publishers["~/partial"].sent) == " café costs €5"
    assert node.logged == ["ended by stop"]


def test_the_bundled_model_gives_a_script(module: Any) -> None:
    node = brain(module)
    node.deliver("~/prompt", String(data="please go forward two meters and then turn left"))
    assert answered(node) == ["move(2); turn(90)"]


def test_choices_constrain_the_answer(module: Any) -> None:
    node = brain(module, constraint="dock()|wait(1)")
    node.deliver("~/prompt", String(data="turn left"))
    assert answered(node)[0] in ("dock()", "wait(1)")


def test_scripts_constrain_the_answer(module: Any) -> None:
    node = brain(module, constraint="scripts", deadline=60.0)
    for count, text in enumerate(("move forward 25 meters", "What do you like to do for fun?"), 1):
        node.deliver("~/prompt", String(data=text))
        told = json.loads(answered(node, count)[-1])
        assert Scripts().parse(told["text"]) is not None and told["logprob"] <= 0


def test_the_response_says_what_to_do_about_a_script(module: Any) -> None:
    node = brain(module, constraint="scripts", max_tokens=20, deadline=60.0)
    node.deliver("~/prompt", String(data="turn left"))
    told = json.loads(answered(node)[0])
    assert (told["text"], told["decision"], told["reasons"]) == (" turn(90)", "run", [])
    node.deliver("~/prompt", String(data="go forward 25 meters"))
    told = json.loads(answered(node, 2)[1])
    assert (told["text"], told["decision"], told["refused"]) == (" unknown()", "refuse", "move(25)")
    assert "outside of -20 to 20" in told["reasons"][0]
    node.seconds = 0.0
    node.deliver("~/prompt", String(data="turn left"))
    assert json.loads(answered(node, 3)[2])["decision"] == "unknown"


def test_stop_a_new_prompt_and_the_deadline_end_an_answer(
    module: Any, tmp_path: pathlib.Path
) -> None:
    path = write_talker(tmp_path / "m.trwkv", LOOP, template="robot")
    node = brain(module, model=path, max_tokens=10**9, deadline=60.0)
    node.deliver("~/stop", Empty())  # nothing to stop
    node.deliver("~/prompt", String(data="go"))
    while len(node.publishers["~/partial"].sent) < 5:
        time.sleep(0.005)
    node.deliver("~/stop", Empty())
    assert answered(node)[0].startswith("so on and so")
    node.deliver("~/prompt", String(data="go"))
    node.deliver("~/prompt", String(data="go"))
    answered(node, 2)
    node.seconds = 0.2
    node.deliver("~/prompt", String(data="go"))
    answered(node, 4)
    assert node.logged == ["ended by cancelled"] * 3 + ["ended by deadline"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, "ExternalShutdownException"])
def test_it_ends_with_the_executor(module: Any, how: Any, tmp_path: pathlib.Path) -> None:
    StandInNode.parameters["model"] = write_talker(tmp_path / "m.trwkv", LOOP, template="robot")
    nodes, calls = [], []
    module.rclpy.ok = lambda: "shut down" not in calls

    def spin(node: Any) -> None:
        nodes.append(node)
        node.deliver("~/prompt", String(data="go"))
        calls.append("shut down")
        raise getattr(module, how) if isinstance(how, str) else how

    module.rclpy.init, module.rclpy.spin = lambda: calls.append("init"), spin
    module.main()
    assert calls == ["init", "shut down"] and not nodes[0].worker.is_alive()
    assert nodes[0].publishers["~/response"].sent == []  # nobody could have heard it


def test_what_is_said_in_the_docstring_is_there(module: Any) -> None:
    node = brain(module)
    topics = {*node.publishers, *node.callbacks}
    assert all(topic in (module.__doc__ or "") for topic in topics) and len(topics) == 4
    assert isinstance(node.model, tinyrwkv.Model)
