"""The MQTT bridge and a real broker: requests, cancel, deadlines, full queues, lost connections."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tinyrwkv
from tests.helpers.places import ROOT
from tests.helpers.talkers import CAFE, LOOP, write_talker
from tests.helpers.terminals import environment

BROKER = shutil.which(
    "mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
)
WHY_NOT = "" if BROKER else "no broker: apt install mosquitto"
try:
    import paho.mqtt.client as mqtt

    if not hasattr(mqtt, "CallbackAPIVersion"):
        WHY_NOT = "paho-mqtt 1 is installed: pip install 'paho-mqtt>=2'"
except ModuleNotFoundError:
    WHY_NOT = "no client: pip install 'paho-mqtt>=2'"

if WHY_NOT and os.environ.get("CI_MQTT") == "required":
    raise RuntimeError(WHY_NOT)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

PREFIX = "robot/brain"


def example() -> Any:
    """Load examples/mqtt_bridge.py."""
    name = "mqtt_bridge"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "mqtt_bridge.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def let_go(client: Any) -> None:
    """End the thread of a client and drop all references to it, so that it closes its sockets."""
    client.loop_stop()
    client.on_connect = client.on_message = client.on_disconnect = client.on_connect_fail = None


class Broker:
    """Mosquitto on a port of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.settings = folder / "mosquitto.conf"
        self.settings.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert BROKER is not None
        command = [BROKER, "-c", str(self.settings)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


class User:
    """A client that asks, and sees all that is said."""

    def __init__(self, port: int) -> None:
        self.seen: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/#", 1)
        self.client.on_message = self._received
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _received(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        if message.payload and not message.topic.endswith(("/request", "/cancel")):
            self.seen.put((message.topic.removeprefix(PREFIX + "/"), json.loads(message.payload)))

    def say(self, topic: str, payload: str | bytes | None, **how: Any) -> None:
        """Publish something."""
        self.client.publish(f"{PREFIX}/{topic}", payload, qos=1, **how).wait_for_publish(10)

    def ask(self, id: str, **values: Any) -> None:
        """Send a request."""
        self.say("request", json.dumps({"id": id, "prompt": "go", **values}))

    def wait_for(
        self, topic: str, seconds: float = 20
    ) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        """Return what came under a topic, and what came before it."""
        before, end = [], time.monotonic() + seconds
        while True:
            try:
                found, told = self.seen.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{topic} did not come, but {before}") from None
            if found == topic:
                return told, before
            before.append((found, told))

    def online(self, is_online: bool = True) -> None:
        """Wait for the status."""
        while self.wait_for("status")[0]["online"] != is_online:
            pass

    def leave(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        let_go(self.client)


@pytest.fixture
def broker(tmp_path: pathlib.Path) -> Iterator[Broker]:
    """Start a broker."""
    started = Broker(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def user(broker: Broker) -> Iterator[User]:
    """Connect somebody who asks."""
    connected = User(broker.port)
    yield connected
    connected.leave()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model whose answer has no end."""
    return write_talker(tmp_path_factory.mktemp("endless") / "m.trwkv", LOOP, template="robot")


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that tells a price."""
    return write_talker(tmp_path_factory.mktemp("brief") / "m.trwkv", CAFE, template="robot")


@pytest.fixture
def bridge(broker: Broker, user: User) -> Iterator[Callable[..., Any]]:
    """Start bridges in this process: ``bridge(model_path, **settings)``."""
    started = []

    def start(path: str, **settings: Any) -> Any:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        made = example().Bridge(tinyrwkv.load(path, backend="numpy"), client, PREFIX, **settings)
        client.connect_async("127.0.0.1", broker.port)
        client.loop_start()
        worker = threading.Thread(target=made.run)
        worker.start()
        started.append((made, worker))
        user.online()
        return made

    yield start
    for made, worker in started:
        made.stop()
        worker.join(10)
        let_go(made.client)
        assert not worker.is_alive() and not made.pending


def test_an_exchange(bridge: Callable[..., Any], user: User, brief: str) -> None:
    bridge(brief)
    user.ask("a", prompt="price?")
    response, before = user.wait_for("response/a")
    pieces = [told for topic, told in before if topic == "partial/a"]
    assert response["text"] == "".join(piece["text"] for piece in pieces) == " café costs €5"
    assert [piece["number"] for piece in pieces] == sorted(
        {piece["number"] for piece in pieces}
    ) and len(pieces) > 3
    assert response["stop_reason"] == "stop" and response["tokens"] == 10 and response["id"] == "a"
    assert 0 <= response["waited_s"] < 10 and response["seconds"] > 0
    user.ask("b", max_tokens=1, sampling_config={"temperature": 0, "seed": 1}, stop=["x"])
    response, _ = user.wait_for("response/b")
    assert (response["text"], response["stop_reason"]) == (" ca", "length")


def test_the_bundled_model_answers_a_command(bridge: Callable[..., Any], user: User) -> None:
    bridge(str(tinyrwkv.loading.BUNDLED))
    user.ask("a", prompt="please go forward two meters and then turn left")
    assert user.wait_for("response/a")[0]["text"].strip() == "move(2); turn(90)"
    user.ask("b", prompt="turn left", constraint={"choice": ["dock()", "wait(1)"]})
    assert user.wait_for("response/b")[0]["text"] in (" dock()", " wait(1)")
    user.ask("c", prompt="turn left", constraint={"regex": "("})
    assert "error" in user.wait_for("response/c")[0]
    schema = {"type": "object", "properties": {"turn": {"enum": [90, -90]}}, "required": ["turn"]}
    user.ask("d", prompt="turn left", constraint={"json_schema": schema})
    assert json.loads(user.wait_for("response/d")[0]["text"])["turn"] in (90, -90)
    for id, told, script in (
        ("e", {}, "move(25)"),  # without a constraint, the model may say anything
        ("f", {"scripts": {}}, None),
        ("g", {"scripts": {"move": [0, 30]}}, "move(25)"),
    ):
        user.ask(id, prompt="move forward 25 meters", **({"constraint": told} if told else {}))
        text = user.wait_for(f"response/{id}")[0]["text"].strip()
        assert text == script if script else text == "unknown()"  # 25 is not allowed
    for id, told in (
        ("h", {"goto": [5]}),
        ("i", {"goto": ["a", 1]}),
        ("j", {"a b": None}),
        ("k", {"move": [3, "4"]}),
    ):
        user.ask(id, constraint={"scripts": told})
        assert "error" in user.wait_for(f"response/{id}")[0]


def test_a_response_says_how_sure_the_model_is_and_what_to_do(
    bridge: Callable[..., Any], user: User
) -> None:
    bridge(str(tinyrwkv.loading.BUNDLED))
    within_5 = {"scripts": {"move": [-5, 5]}}
    cases = (
        ("turn left", within_5, "turn(90)", "run"),
        ("go forward 20 meters", within_5, "unknown()", "refuse"),
        ("What do you like to do for fun?", within_5, None, None),
        ("turn left", None, "turn(90)", None),
    )
    for number, (prompt, constraint, text, decision) in enumerate(cases):
        more = {} if constraint is None else {"constraint": constraint}
        user.ask(str(number), prompt=prompt, **more)
        told = user.wait_for(f"response/{number}")[0]
        assert told["logprob"] <= 0 and text in (None, told["text"].strip())
        assert ("decision" in told) == ("reasons" in told) == (constraint is not None)
        assert decision in (None, told.get("decision"))
        assert ("refused" in told) == (told.get("decision") == "refuse")
        if decision == "refuse":
            assert told["refused"] == "move(20)" and "-5 to 5" in told["reasons"][0]
    user.ask("cut", prompt="turn left", constraint={"scripts": {}}, max_tokens=1)
    assert user.wait_for("response/cut")[0]["decision"] == "unknown"
    user.ask("any", prompt="turn left", constraint={"choice": ["turn(90)", "a walrus"]})
    sure = user.wait_for("response/any")[0]["logprob"]
    user.ask("odd", prompt="turn left", constraint={"choice": ["a walrus"]})
    assert user.wait_for("response/odd")[0]["logprob"] < sure - 10  # without the constraint


def test_whoever_doubts_more_is_asked_more(bridge: Callable[..., Any], user: User) -> None:
    bridge(str(tinyrwkv.loading.BUNDLED), threshold=1.0)  # no probability is as large
    user.ask("a", prompt="turn left", constraint={"scripts": {}})
    told = user.wait_for("response/a")[0]
    assert (told["text"].strip(), told["decision"], told["reasons"]) == ("turn(90)", "ask", [])


def test_a_conversation_goes_on_where_it_is_asked_to(
    bridge: Callable[..., Any], user: User, brief: str
) -> None:
    made = bridge(brief)
    tokens = []
    for id, reset in (("a", True), ("b", False), ("c", True)):
        user.ask(id, reset=reset)
        user.wait_for(f"response/{id}")
        tokens.append(made.said[0].tokens)
    assert tokens[1] > tokens[0] == tokens[2]


def test_cancel_and_stop(bridge: Callable[..., Any], user: User, endless: str) -> None:
    bridge(endless, longest=60)
    for id in "abc":
        user.ask(id, max_tokens=10**9)
    said = ""
    while " so on and so" not in said:  # however busy the machine is
        said += user.wait_for("partial/a")[0]["text"]
    user.say("cancel", '{"id": "b"}')  # it waits
    user.say("cancel", '{"id": "a"}')
    response, _ = user.wait_for("response/a")
    assert response["stop_reason"] == "cancelled" and response["text"].startswith(" so on and so")
    response, _ = user.wait_for("response/b")
    assert (response["stop_reason"], response["text"], response["tokens"]) == ("cancelled", "", 0)
    user.wait_for("partial/c")
    user.say("cancel", None)
    assert user.wait_for("response/c")[0]["stop_reason"] == "cancelled"


def test_a_deadline_counts_the_waiting(
    bridge: Callable[..., Any], user: User, endless: str
) -> None:
    bridge(endless, longest=60)
    user.ask("a", max_tokens=10**9, deadline=1.2)
    user.ask("b", max_tokens=10**9, deadline=0.6)
    response, _ = user.wait_for("response/a")
    assert (
        response["stop_reason"] == "deadline" and response["tokens"] > 0 and response["seconds"] < 5
    )
    response, _ = user.wait_for("response/b")
    assert (response["stop_reason"], response["tokens"]) == ("deadline", 0) and response[
        "waited_s"
    ] > 0.6


def test_a_full_queue_says_so_at_once(bridge: Callable[..., Any], user: User, endless: str) -> None:
    bridge(endless, waiting=2, longest=60)
    user.ask("a", max_tokens=10**9)
    user.wait_for("partial/a")
    for id in ("b", "c", "d"):
        user.ask(id, max_tokens=10**9)
    response, _ = user.wait_for("response/d")
    assert "2 requests wait already, and no more may wait" in response["error"]
    user.ask("b")  # the same id again is the same request
    user.say("cancel", None)
    answered = [user.wait_for(f"response/{id}")[0] for id in "abc"]
    assert [one["stop_reason"] for one in answered] == ["cancelled"] * 3
    user.ask("d", max_tokens=2)
    told, before = user.wait_for("response/d")
    assert told["stop_reason"] == "length" and not [
        topic for topic, _ in before if topic == "response/b"
    ]


NO_REQUESTS = (
    *(b"", b"\xff", b"[" * 60_000, b"{" * 70_000, b"null", b'"a"'),
    *(b'{"id": "x"}', b'{"prompt": "x"}', b"[1]"),
)
WRONG_VALUES: tuple[dict[str, Any], ...] = (
    *({"id": "a/b"}, {"id": "+"}, {"id": ""}, {"id": 5}, {"id": "x" * 65}),
    *({"prompt": 5}, {"more": 1}, {"max_tokens": "1"}, {"max_tokens": True}, {"reset": 1}),
    *({"deadline": 0}, {"deadline": 6}, {"deadline": "1"}),
    *({"deadline": float("nan")}, {"deadline": True}),
    *({"sampling_config": {"temperature": "0"}}, {"sampling_config": {"temperature": -1}}),
    *({"sampling_config": {"heat": 1}}, {"sampling_config": []}),
    *({"sampling_config": {"seed": 0.5}}, {"constraint": {"magic": 1}}, {"constraint": {}}),
)


def test_what_is_not_a_request_is_refused_and_hurts_nobody(
    bridge: Callable[..., Any], user: User, brief: str
) -> None:
    bridge(brief, longest=5)
    whole = {"id": "x", "prompt": "go"}
    for payload in (*NO_REQUESTS, *(json.dumps(whole | more).encode() for more in WRONG_VALUES)):
        user.say("request", payload)
        if payload:
            # If the id can be read, the answer goes to its topic.
            topic = "response/x" if b'"id": "x"' in payload else "error"
            # What is wrong, then what to do about it.
            assert "; " in user.wait_for(topic)[0]["error"], payload
    for more in (
        {"max_tokens": -1},
        {"stop": [""]},
        {"stop": 5},
        {"constraint": {"choice": []}},
        {"constraint": {"scripts": 1}},
        {"constraint": {"scripts": {"goto": 5}}},
        {"constraint": {"scripts": {"goto": [1, 2, 3]}}},
    ):
        user.ask("x", **more)
        assert "; " in user.wait_for("response/x")[0]["error"]
    for payload in (b"{", b"[]", b'{"id": 5}', b'{"id": "a/b"}', b"\xff"):
        user.say("cancel", payload)
        assert "error" in user.wait_for("error")[0]
    user.say("request", json.dumps(whole | {"id": "retained"}), retain=True)
    user.wait_for("response/retained")  # clients that are connected now get it unchanged
    user.ask("y")
    assert user.wait_for("response/y")[0]["text"] == " café costs €5"


def test_a_retained_request_is_not_answered_again(
    broker: Broker, bridge: Callable[..., Any], user: User, brief: str
) -> None:
    user.say("request", '{"id": "old", "prompt": "go"}', retain=True)
    bridge(brief)
    user.ask("new")
    _, before = user.wait_for("response/new")
    assert not [topic for topic, _ in before if "old" in topic]


def test_the_broker_may_go_and_come_back(
    broker: Broker, bridge: Callable[..., Any], user: User, brief: str
) -> None:
    bridge(brief)
    user.ask("a")
    user.wait_for("response/a")
    broker.stop()
    time.sleep(0.2)
    broker.start()
    user.online()
    user.ask("b")
    assert user.wait_for("response/b")[0]["text"] == " café costs €5"


class Flood:
    """A client that asks many times at once, and counts the responses."""

    def __init__(self, port: int) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.ready = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/response/#", 1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self._received
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(10)

    def _received(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        told = json.loads(message.payload)
        self.answers.setdefault(told["id"], []).append(told)

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait until so many requests are answered, and a little longer for too many answers."""
        end = time.monotonic() + seconds
        while len(self.answers) < count and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        assert len(self.answers) == count
        assert {len(answers) for answers in self.answers.values()} == {1}

    def leave(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        let_go(self.client)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


HUGE = "9" * 400
HOSTILE_VALUES = (
    *(HUGE, f"-{HUGE}", "9" * 5000, f"{HUGE}.5", "1e999", "-1e999", "NaN", "Infinity", "-Infinity"),
    *("null", "true", "[]", "{}", "[[]]", '""', '"a"', "-0", "0.1", "[1]", '{"a": 1}'),
    *(nested(400), nested(700), '{"a":' * 300 + "1" + "}" * 300),
    *('"\\ud800"', '"\\udfff\\ud800"', '["\\ud800"]', '{"\\ud800": 1}', '"\\u0000"'),
    *('{"choice": "\\ud800"}', '{"choice": ["\\ud800"]}', '{"choice": []}', '{"regex": "("}'),
    *('{"regex": "\\ud800"}', f'{{"json_schema": {{"const": {HUGE}}}}}', '{"scripts": []}'),
    *(f'{{"json_schema": {{"minimum": {HUGE}}}}}', f'{{"json_schema": {{"a": {nested(600)}}}}}'),
    *(f'{{"scripts": {{"move": [0, {HUGE}]}}}}', '{"scripts": {"move": [1e999, NaN]}}'),
    *(f'{{"temperature": {HUGE}}}', f'{{"seed": {HUGE}}}', f'{{"top_k": {HUGE}}}'),
    *('{"scripts": {"\\ud800": null}}', '{"scripts": {"goto": ["\\ud800"]}}'),
)
HOSTILE_KEYS = (
    *("prompt", "stop", "max_tokens", "deadline", "reset", "sampling_config", "constraint"),
    *("more", "\\ud800"),
)
HOSTILE_MESSAGES = (
    *(
        b"[" * 65_536,
        b'{"a":' * 10_000,
        nested(30_000).encode(),
        b"\xff" * 65_536,
        b"\x00" * 65_536,
    ),
    *(b"9" * 65_536, b'"' + b"a" * 65_534 + b'"', b" " * 65_536, b"-", b"1e999", b"NaN"),
    *(b"\xed\xa0\x80", b'{"id": "\xed\xa0\x80"}', b'{"id": 9' + b"9" * 5000 + b"}", b"[" * 100_000),
    *(b'{"id": "\\ud800", "prompt": ""}', b'{"id": null, "prompt": ""}', b'{"id": NaN}'),
)


def hostile_requests() -> Iterator[tuple[str, bytes]]:
    """Yield an id, and a request that asks for few tokens at most."""
    number = 0
    for key in HOSTILE_KEYS:
        for value in HOSTILE_VALUES:
            number += 1
            told = {"id": f'"h{number}"', "prompt": '"go"', "max_tokens": "1"} | {key: value}
            fields = ", ".join(f'"{name}": {text}' for name, text in told.items())
            yield f"h{number}", f"{{{fields}}}".encode()


def test_nothing_that_is_sent_ends_the_bridge(
    broker: Broker, bridge: Callable[..., Any], user: User, brief: str
) -> None:
    made = bridge(brief, longest=5, waiting=1000)
    for payload in HOSTILE_MESSAGES:
        user.say("request", payload)
        assert "; " in user.wait_for("error")[0]["error"], payload[:40]
        user.say("cancel", payload)
        assert "; " in user.wait_for("error")[0]["error"], payload[:40]
    flood = Flood(broker.port)
    sent = dict(hostile_requests())
    for payload in sent.values():
        flood.client.publish(f"{PREFIX}/request", payload, qos=1)
    flood.wait_for(len(sent))
    for id, payload in sent.items():
        (told,) = flood.answers[id]
        assert ("error" in told) != ("text" in told), payload[:200]
        assert "; " in told.get("error", "; "), payload[:200]
    flood.leave()
    user.ask("sound", prompt="price?")
    assert user.wait_for("response/sound")[0]["text"] == " café costs €5"
    assert not made.pending


@pytest.mark.parametrize("qos", [0, 1])
def test_a_thousand_requests_at_once_get_a_thousand_responses(
    broker: Broker, bridge: Callable[..., Any], brief: str, qos: int
) -> None:
    bridge(brief, waiting=20)
    flood = Flood(broker.port)
    for number in range(1000):
        payload = json.dumps({"id": str(number), "prompt": "go"})
        flood.client.publish(f"{PREFIX}/request", payload, qos)
    flood.wait_for(1000)
    answered = sum("text" in told for (told,) in flood.answers.values())
    assert answered >= 20  # those that could wait; all others were refused
    flood.leave()


class Sent:
    """Stands in for what a client's publish returns."""

    def __init__(self, rc: int) -> None:
        self.rc = rc

    def is_published(self) -> bool:
        return False

    def wait_for_publish(self, timeout: float) -> None:
        """Return at once."""


class Refusing:
    """Stands in for a client. It takes a number of messages, and refuses all others."""

    def __init__(self) -> None:
        self.free, self.took, self.acknowledged = 0, list[tuple[str, Any, int]](), list[int]()
        for name in ("reconnect_delay_set", "max_queued_messages_set", "manual_ack_set"):
            setattr(self, name, lambda *_: None)
        self.will_set = self.subscribe = lambda *_, **__: None
        self.disconnect = lambda: None

    def publish(self, topic: str, payload: str, qos: int, retain: bool) -> Sent:
        if qos and not self.free:
            return Sent(mqtt.MQTT_ERR_QUEUE_SIZE)
        self.free -= bool(qos)
        self.took.append((topic, json.loads(payload), qos))
        return Sent(mqtt.MQTT_ERR_SUCCESS)

    def ack(self, mid: int, qos: int) -> None:
        self.acknowledged.append(mid)

    def responses(self) -> list[str]:
        return [topic.rpartition("/")[2] for topic, _, qos in self.took if qos]


def deliver(made: Any, mid: int, topic: str = "request", payload: bytes | None = None) -> None:
    """Call back as the thread of the network does."""
    message = mqtt.MQTTMessage(mid, f"{PREFIX}/{topic}".encode())
    message.qos = 1
    message.payload = json.dumps({"id": f"{mid}", "prompt": "go"}).encode()
    if payload is not None:
        message.payload = payload
    made.client.on_message(made.client, None, message)


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def refused(brief: str) -> Iterator[Any]:
    """Make a bridge whose client refuses to publish, and which keeps 150 messages."""
    model = tinyrwkv.load(brief, backend="numpy")
    made = example().Bridge(model, Refusing(), PREFIX, waiting=500, kept=150)
    yield made
    made.client.free = 10**6
    made.outbox.close(10)


def test_responses_that_the_client_refuses_are_kept_and_requests_refused(refused: Any) -> None:
    for number in range(105):
        deliver(refused, number)
        if number < 100:
            refused.answer(refused.requests.get_nowait())
    assert refused.requests.empty()  # from 100 responses on that wait, requests are refused
    assert refused.client.acknowledged == list(range(105)) and not refused.client.responses()
    refused.client.free = 10**6
    eventually(lambda: len(refused.client.responses()) == 105)
    assert refused.client.responses() == [str(number) for number in range(105)]
    told = [told for _, told, qos in refused.client.took if qos]
    assert ["error" in one for one in told] == [False] * 100 + [True] * 5
    assert "broker does not take the answers" in told[-1]["error"]
    deliver(refused, 105)
    assert not refused.requests.empty()


def test_a_message_is_acknowledged_when_there_is_room_for_its_answer(refused: Any) -> None:
    for number in range(170):
        deliver(refused, number, payload=b"no request")
    assert refused.client.acknowledged == list(range(150))
    deliver(refused, 170, "cancel", b"")  # this never waits
    assert refused.client.acknowledged == [*range(150), 170]
    for count in range(1, 400):
        refused.client.free += 1
        eventually(lambda count=count: len(refused.client.took) >= min(count, 170))
        refused.client.on_publish(refused.client, None, count, 0, None)
    assert sorted(refused.client.acknowledged) == list(range(171))
    assert len(refused.client.responses()) == 170


def test_a_broker_that_takes_nothing_costs_bounded_memory(refused: Any) -> None:
    for number in range(5000):
        deliver(refused, number, payload=b"no request")
        deliver(refused, number, "cancel", b"no id")
    assert len(refused.unread) == 100 and not refused.outbox.room
    refused.client.on_disconnect(refused.client, None, None, "gone", None)
    assert not refused.unread  # the broker forgets them too


def test_an_error_in_the_bridge_is_an_answer(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused.client.free = 10**6
    monkeypatch.setattr(refused.model, "generate", lambda *_, **__: 1 / 0)
    for number in range(3):
        deliver(refused, number)
        refused.answer(refused.requests.get_nowait())
    eventually(lambda: len(refused.client.responses()) == 3)
    assert "ZeroDivisionError" in refused.client.took[0][1]["error"] and not refused.pending


@contextlib.contextmanager
def program(path: str, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "examples/mqtt_bridge.py",
        path,
        "--port",
        str(port),
        "--prefix",
        PREFIX,
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # a test that fails must not wait for it


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_program_ends_cleanly(broker: Broker, user: User, endless: str) -> None:
    with program(endless, broker.port) as process:
        user.online()
        user.ask("a", max_tokens=10**9)
        user.wait_for("partial/a")
        process.send_signal(signal.SIGTERM)
        assert user.wait_for("response/a")[0]["stop_reason"] == "cancelled"
        user.online(False)
        assert process.wait(10) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_the_broker_tells_when_the_program_is_killed(
    broker: Broker, user: User, brief: str
) -> None:
    with program(brief, broker.port) as process:
        user.online()
        process.kill()
        user.online(False)


def test_the_program_waits_for_the_broker(broker: Broker, brief: str) -> None:
    broker.stop()
    with program(brief, broker.port) as process:
        assert process.stderr is not None
        assert (
            process.stderr.readline()
            == f"mqtt_bridge: no broker at localhost:{broker.port} yet; trying again\n"
        )
        broker.start()
        user = User(broker.port)
        user.online()
        user.leave()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
