"""Answer requests over MQTT.

It has one model, a bounded queue, partial answers, cancelling and deadlines, and connects again.

    sudo apt install mosquitto mosquitto-clients python3-numpy
    pip install "paho-mqtt>=2"                              # or: pip install ".[mqtt]"
    python3 examples/mqtt_bridge.py --prefix robot/brain
    mosquitto_sub -v -t 'robot/brain/#' &
    mosquitto_pub -t robot/brain/request -m '{"id": "1", "prompt": "turn left", "deadline": 2}'
    mosquitto_pub -t robot/brain/cancel -n                  # an empty message cancels all

docs/mqtt.md describes the topics and the keys of requests. While the broker is there, every request
gets exactly one response, under PREFIX/response/ID. Retained messages are not taken as requests,
because the broker would send them again to every bridge that starts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from tinyrwkv.chat import answer_settings
from tinyrwkv.chat.templates import template
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.robot.scripts import VERBS, Argument, Names, Number, Scripts

try:
    import paho.mqtt.client as mqtt
except ModuleNotFoundError:
    sys.exit('paho-mqtt is missing: pip install "paho-mqtt>=2"')

MOST_BYTES = 1 << 16  # of a request
KEYS = ("id", "prompt", "stop", "max_tokens", "deadline", "reset", "sampling_config", "constraint")
TYPES = {
    "prompt": str,
    "reset": bool,
    "sampling_config": dict,
    "max_tokens": int,
    "constraint": dict,
}


def scripts(told: dict[str, Any], prefix: str) -> Scripts:
    """Return the grammar of robot scripts, with other arguments for some calls.

    Parameters
    ----------
    told : dict
        The argument of each of these calls: names, [low, high], or None for no argument.
    prefix : str
        What comes before a script.
    """
    return Scripts(VERBS | {verb: argument(value) for verb, value in told.items()}, prefix)


def argument(value: Any) -> Argument | None:
    """Return the argument that a call takes."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)):
        return Number(*value)
    return Names(value)


def is_number(value: object) -> bool:
    """Tell whether a value of JSON is a number."""
    return type(value) in (int, float)


CONSTRAINTS = {
    "choice": tinyrwkv.Choice,
    "regex": tinyrwkv.Regex,
    "json_schema": tinyrwkv.JsonSchema,
    "scripts": scripts,
}
KINDS = {"choice": list, "regex": str, "json_schema": dict, "scripts": dict}
"""The type of JSON that each of them is made from."""


@dataclass
class Request:
    """A request that waits for its answer or is being answered.

    Attributes
    ----------
    id, prompt : str
    stop : list of str, or None for that of the template
    max_tokens : int
    until : float
        Absolute ``time.monotonic()`` time.
    reset : bool
        Whether it stands alone. If not, it goes on from the answer before.
    sampler : Sampler
    constraint : dict, or None
        The name of one of `CONSTRAINTS`, and what to make it from.
    """

    id: str
    prompt: str
    stop: list[str] | None
    max_tokens: int
    until: float
    reset: bool
    sampler: tinyrwkv.Sampler
    constraint: dict[str, Any] | None
    cancelled: bool = False
    generation: tinyrwkv.Generation | None = None
    arrived: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """End the answer within milliseconds, or do not begin it."""
        self.cancelled = True
        if self.generation is not None:
            self.generation.cancel()


def refuse(key: str, found: object, expected: str, sentence: str | None = None) -> ArgumentError:
    """Return the error for a value of a request."""
    shown = repr(found)[:80]
    sentence = sentence or f"{key} is {shown}, but must be {expected}"
    return ArgumentError("request", key, shown, expected, "see docs/mqtt.md", sentence)


def read(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in a message; raise ArgumentError if there is none with an id."""
    if len(payload) > MOST_BYTES:
        found, expected = f"{len(payload):,} bytes", f"at most {MOST_BYTES:,}"
        sentence = f"message has {found}, but may have {expected}"
        raise refuse("message", found, expected, sentence)
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise refuse("message", payload[:60], "a JSON object with an id and a prompt")
    valid_id(told.get("id"))
    return told


def parse(told: dict[str, Any], longest: float) -> Request:
    """Return the request in an object; raise ArgumentError if it is not a request.

    Parameters
    ----------
    told : dict
        As `read` returns it.
    longest : float
        Most seconds that a request may take. It is also the default.
    """
    check_keys(told)
    seconds = told.get("deadline", longest)
    if not is_number(seconds) or not (math.isfinite(seconds) and 0 < seconds <= longest):
        raise refuse("deadline", seconds, f"seconds up to {longest:g}")
    constraint = told.get("constraint")
    if constraint is not None:
        is_known = constraint.keys() <= CONSTRAINTS.keys()
        if len(constraint) != 1 or not is_known:
            raise refuse("constraint", constraint, f"an object of one of {', '.join(CONSTRAINTS)}")
    return Request(
        id=told["id"],
        prompt=told["prompt"],
        stop=told.get("stop"),
        max_tokens=told.get("max_tokens", 200),
        until=time.monotonic() + seconds,
        reset=told.get("reset", True),
        sampler=sampler(told.get("sampling_config", {})),
        constraint=constraint,
    )


def check_keys(told: dict[str, Any]) -> None:
    """Raise ArgumentError if a key is missing or unknown, or its value is of another type."""
    unknown = sorted(told.keys() - set(KEYS))
    if unknown:
        raise refuse("key", unknown[0], f"one of {', '.join(KEYS)}")
    if "prompt" not in told:
        raise refuse("prompt", None, "what is said", "the request has no prompt")
    for key, kind in TYPES.items():
        if key in told and type(told[key]) is not kind:
            raise refuse(key, told[key], f"of type {kind.__name__}")


def sampler(told: dict[str, Any]) -> tinyrwkv.Sampler:
    """Return the sampler of a request. It is greedy if the request says nothing about it."""
    values = {"temperature": 0.0, **told}
    if "max_tokens" in values or not all(map(is_number, values.values())):
        expected = f"an object of numbers with the keys {', '.join(answer_settings.OF_SAMPLER)}"
        raise refuse("sampling_config", values, expected)
    return tinyrwkv.Sampler(**answer_settings.check(values))


def valid_id(text: object) -> str:
    """Return an id that can be part of a topic; raise ArgumentError if it cannot."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise refuse("id", text, "1 to 64 letters, digits, _ . or -")
    return text


def note(text: str) -> None:
    """Tell the person who started the bridge."""
    print(f"mqtt_bridge: {text}", file=sys.stderr, flush=True)


class Bridge:
    """Answers what an MQTT client receives.

    Parameters
    ----------
    model : Model
    client : paho.mqtt.client.Client
        Not connected yet. The bridge sets its callbacks.
    prefix : str
        The beginning of all topics.
    waiting : int
        Most requests that may wait. Any further request is refused at once.
    longest : float
        Most seconds that a request may take, waiting included.
    """

    def __init__(
        self,
        model: tinyrwkv.Model,
        client: mqtt.Client,
        prefix: str = "tinyrwkv",
        waiting: int = 8,
        longest: float = 30,
    ) -> None:
        self.model = model
        self.client = client
        self.prefix = prefix
        self.longest = longest
        self.template = template(model.config.get("template", "chat"))
        self.requests: queue.Queue[Request] = queue.Queue(waiting)
        self.pending: dict[str, Request] = {}  # waiting, and the one being answered
        self.lock = threading.Lock()
        self.stopping = False
        self.told_of_no_broker = False
        # The state after the last answer, and its tokens that the model has not read.
        self.said: tuple[tinyrwkv.State, list[int]] | None = None
        client.on_connect = self._connected
        client.on_message = self._received
        client.on_disconnect = self._lost
        client.on_connect_fail = self._not_there
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(100)  # responses that wait for the broker to come back
        client.will_set(f"{prefix}/status", json.dumps({"online": False}), qos=1, retain=True)

    def run(self) -> None:
        """Answer requests until `stop`, then publish that the bridge is not online."""
        try:
            while not self.stopping:
                try:
                    request = self.requests.get(timeout=0.1)
                except queue.Empty:
                    continue
                self.answer(request)
        finally:
            self.cancel()
            while not self.requests.empty():
                self.answer(self.requests.get())
            self._publish("status", {"online": False}, qos=1, retain=True, wait=2)
            self.client.disconnect()

    def stop(self) -> None:
        """End `run`, from any thread or a signal handler, because nothing here waits for a lock."""
        self.stopping = True
        for request in list(self.pending.values()):
            request.cancel()

    def cancel(self, id: str | None = None) -> None:
        """Cancel one request, or all."""
        with self.lock:
            for request in self.pending.values():
                if id in (None, request.id):
                    request.cancel()

    def answer(self, request: Request) -> None:
        """Publish the pieces of an answer as they come, then one response, whatever happens."""
        try:
            response = self._generate(request)
        except TinyRWKVError as error:
            response = {"error": str(error)}
        with self.lock:
            del self.pending[request.id]
        self._publish(f"response/{request.id}", {"id": request.id, **response}, qos=1)

    def _generate(self, request: Request) -> dict[str, Any]:
        begin = time.monotonic()
        said = None if request.reset else self.said
        state, unread = said or (self.model.new_state(), [0])  # token 0 begins a document
        prompt = self.template.prompt(request.prompt, first=said is None)
        generation = self.model.generate(
            [*unread, *self.model.tokenizer.encode(prompt)],
            state=state,
            sampler=request.sampler,
            max_tokens=request.max_tokens,
            stop=self.template.stop if request.stop is None else request.stop,
            deadline=request.until,
            constraint=self._constraint(request.constraint),
        )
        request.generation = generation
        if request.cancelled:  # while this generation was being made
            generation.cancel()
        for number, piece in enumerate(generation):
            if piece.text:
                self._publish_piece(request, number, piece)
        result = generation.result
        self.said = result.state, result.unread
        return {
            "text": result.text,
            "stop_reason": result.stop_reason,
            "tokens": len(result.tokens),
            "waited_s": round(begin - request.arrived, 4),
            "seconds": round(time.monotonic() - begin, 4),
        }

    def _constraint(self, told: dict[str, Any] | None) -> Any:
        if told is None:
            return None
        ((name, value),) = told.items()
        if type(value) is not KINDS[name]:
            raise refuse("constraint", told, f"of type {KINDS[name].__name__} under {name}")
        # The models write a space after "Assistant:".
        prefix = " " if self.template.answer_prefix else ""
        return CONSTRAINTS[name](value, prefix)

    def _publish_piece(self, request: Request, number: int, piece: tinyrwkv.Piece) -> None:
        told = {
            "id": request.id,
            "number": number,
            "text": piece.text,
            "logprob": round(piece.logprob, 4),
        }
        self._publish(f"partial/{request.id}", told)

    def _publish(
        self, topic: str, told: dict[str, Any], qos: int = 0, retain: bool = False, wait: float = 0
    ) -> None:
        sent = self.client.publish(f"{self.prefix}/{topic}", json.dumps(told), qos, retain)
        if wait:
            with contextlib.suppress(RuntimeError, ValueError):  # the broker is not there
                sent.wait_for_publish(wait)

    # The thread of the network calls the methods below. They must not wait or raise an exception.

    def _connected(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        if reason.is_failure:
            note(f"refused: {reason}")
            return
        client.subscribe([(f"{self.prefix}/request", 1), (f"{self.prefix}/cancel", 1)])
        self._publish("status", {"online": True, "model": self.model.hash}, qos=1, retain=True)
        note(f"ready, {self.prefix}/request")

    def _not_there(self, client: mqtt.Client, data: object) -> None:
        if not self.told_of_no_broker:
            note(f"no broker at {client.host}:{client.port} yet; trying again")
        self.told_of_no_broker = True

    def _lost(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        if not self.stopping:
            note(f"connection lost: {reason}; connecting again")

    def _received(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        topic = "error"
        id = None
        try:
            if message.topic.endswith("/cancel"):
                self._cancel_request(message.payload)
            elif not message.retain:
                told = read(message.payload)
                id = told["id"]
                topic = f"response/{id}"
                self._accept(parse(told, self.longest))
        except TinyRWKVError as error:
            self._publish(topic, {"id": id, "error": str(error)}, qos=1)
        except (ValueError, TypeError, KeyError, RecursionError):
            wrong = refuse("cancel", message.payload[:60], '{"id": "..."}')
            self._publish("error", {"id": None, "error": str(wrong)})

    def _cancel_request(self, payload: bytes) -> None:
        """Cancel the request that a message names, or all if the message is empty."""
        self.cancel(valid_id(json.loads(payload)["id"]) if payload else None)

    def _accept(self, request: Request) -> None:
        if self.stopping:
            found = "a bridge that is ending"
            what = ("bridge", "request", found, "one that runs")
            raise ArgumentError(*what, "ask again later", "the bridge is ending")
        with self.lock:
            if request.id in self.pending:
                return  # the broker sent it again, because it was not told that it had arrived
            self.pending[request.id] = request
        try:
            self.requests.put_nowait(request)
        except queue.Full:
            with self.lock:
                del self.pending[request.id]
            found = f"{self.requests.maxsize} requests that wait"
            fix = "cancel some, or ask again later"
            sentence = f"{self.requests.maxsize} requests wait already, and no more may wait"
            raise ArgumentError("bridge", "queue", found, "fewer", fix, sentence) from None


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a .trwkv file (default: the bundled model)")
    add("--host", default="localhost", help="host of the broker (default: localhost)")
    add("--port", type=int, default=1883, help="port of the broker (default: 1883)")
    add("--prefix", default="tinyrwkv", help="beginning of all topics (default: tinyrwkv)")
    add("--username", help="user name; the password is in the environment variable MQTT_PASSWORD")
    add("--tls", action="store_true", help="encrypt, with the system's certificates")
    add("--waiting", type=int, default=8, metavar="N", help="most requests that wait (default: 8)")
    longest_help = "most seconds for a request, waiting included (default: 30)"
    add("--longest", type=float, default=30, metavar="S", help=longest_help)
    add("--threads", type=int, default=1, metavar="N", help="threads for each token (default: 1)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line until SIGINT or SIGTERM."""
    options = parse_options(argv)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    if options.username:
        client.username_pw_set(options.username, os.environ.get("MQTT_PASSWORD"))
    if options.tls:
        client.tls_set()
    try:
        model = tinyrwkv.load(options.model, threads=options.threads)
        bridge = Bridge(model, client, options.prefix, options.waiting, options.longest)
        client.connect_async(options.host, options.port)
    except (TinyRWKVError, ValueError) as error:
        print(f"mqtt_bridge: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: bridge.stop())
    client.loop_start()  # tries to connect until the broker is there
    bridge.run()
    client.loop_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
