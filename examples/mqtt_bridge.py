"""Answer requests over MQTT: one model, a bounded queue, partial answers on the way, cancel, deadlines, reconnection.

    sudo apt install mosquitto mosquitto-clients python3-numpy
    pip install "paho-mqtt>=2"                              # or: pip install ".[mqtt]"
    python3 examples/mqtt_bridge.py --prefix robot/brain
    mosquitto_sub -v -t 'robot/brain/#' &
    mosquitto_pub -t robot/brain/request -m '{"id": "1", "prompt": "turn left", "deadline": 2}'
    mosquitto_pub -t robot/brain/cancel -n                  # an empty message cancels all

docs/mqtt.md describes the topics and the keys of requests. Every request gets exactly one response, under
PREFIX/response/ID, while the broker is there. A message that was retained is no request: the broker would send it
again to every bridge that starts.
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
from tinyrwkv.chat import settings
from tinyrwkv.chat.templates import template
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.robot.scripts import VERBS, Names, Number, Scripts

try:
    import paho.mqtt.client as mqtt
except ModuleNotFoundError:
    sys.exit('paho-mqtt is missing: pip install "paho-mqtt>=2"')

MOST_BYTES = 1 << 16  # of a request
KEYS = ("id", "prompt", "stop", "max_tokens", "deadline", "reset", "sampling_config", "constraint")


def scripts(told: dict[str, Any], lead: str) -> Scripts:
    """Return the grammar of robot scripts, some calls with other arguments: names, [low, high], null for none."""
    verbs = dict(VERBS)
    for verb, argument in told.items():
        is_range = isinstance(argument, list) and [type(x) in (int, float) for x in argument] == [
            True,
            True,
        ]
        verbs[verb] = (
            None if argument is None else Number(*argument) if is_range else Names(argument)
        )
    return Scripts(verbs, lead)


CONSTRAINTS = {
    "choice": lambda told, lead: tinyrwkv.Choice(told, lead),
    "regex": lambda told, lead: tinyrwkv.Regex(told, lead),
    "json_schema": lambda told, lead: tinyrwkv.JsonSchema(told, lead),
    "scripts": scripts,
}


@dataclass
class Request:
    """A request that waits for its answer or is being answered.

    Attributes
    ----------
    id, prompt : str
    stop : list of str, or None for what the template says
    max_tokens : int
    until : float
        Absolute ``time.monotonic()`` time.
    reset : bool
        Whether it stands alone; otherwise it goes on from the answer before.
    sampler : Sampler
    constraint : dict, or None
        One of `CONSTRAINTS` and what to make it from.
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
        """End it within milliseconds, or before it begins."""
        self.cancelled = True
        if self.generation is not None:
            self.generation.cancel()


def refuse(key: str, found: object, expected: str) -> ArgumentError:
    """Return the error for a value of a request."""
    return ArgumentError("request", key, repr(found)[:80], expected, "see docs/mqtt.md")


def read(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in a message that has an id; ArgumentError where there is none."""
    if len(payload) > MOST_BYTES:
        raise refuse("message", f"{len(payload):,} bytes", f"at most {MOST_BYTES:,}")
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise refuse("message", payload[:60], "a JSON object with an id and a prompt")
    valid_id(told.get("id"))
    return told


def parse(told: dict[str, Any], longest: float) -> Request:
    """Return the request in an object; ArgumentError where it is none.

    Parameters
    ----------
    told : dict
        As `read` gives it.
    longest : float
        Seconds that a request may take at most, and takes where it says nothing.
    """
    if unknown := sorted(told.keys() - set(KEYS)):
        raise refuse("key", unknown[0], f"one of {', '.join(KEYS)}")
    if "prompt" not in told:
        raise refuse("prompt", None, "what is said")
    kinds = {
        "prompt": str,
        "reset": bool,
        "sampling_config": dict,
        "max_tokens": int,
        "constraint": dict,
    }
    for key, kind in kinds.items():
        if key in told and type(told[key]) is not kind:
            raise refuse(key, told[key], f"a {kind.__name__}")
    seconds = told.get("deadline", longest)
    if type(seconds) not in (int, float) or not (math.isfinite(seconds) and 0 < seconds <= longest):
        raise refuse("deadline", seconds, f"seconds up to {longest:g}")
    sampling = {"temperature": 0.0, **told.get("sampling_config", {})}
    if (
        not all(type(value) in (int, float) for value in sampling.values())
        or "max_tokens" in sampling
    ):
        raise refuse(
            "sampling_config",
            sampling,
            f"numbers by the names {', '.join(settings.SAMPLER_SETTINGS)}",
        )
    constraint = told.get("constraint")
    if constraint is not None and not (
        len(constraint) == 1 and constraint.keys() <= CONSTRAINTS.keys()
    ):
        raise refuse("constraint", constraint, f"an object of one of {', '.join(CONSTRAINTS)}")
    return Request(
        id=told["id"],
        prompt=told["prompt"],
        stop=told.get("stop"),
        max_tokens=told.get("max_tokens", 200),
        until=time.monotonic() + seconds,
        reset=told.get("reset", True),
        sampler=tinyrwkv.Sampler(**settings.check(sampling)),
        constraint=constraint,
    )


def valid_id(text: object) -> str:
    """Return an id that can be part of a topic; ArgumentError where it cannot."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise refuse("id", text, "1 to 64 letters, digits, _ . or -")
    return text


class Bridge:
    """Answers what an MQTT client receives.

    Parameters
    ----------
    model : Model
    client : paho.mqtt.client.Client
        Not connected yet; its callbacks are set here.
    prefix : str
        What all topics begin with.
    waiting : int
        Requests that may wait; more are refused at once.
    longest : float
        Seconds that a request may take, waiting included.
    """

    def __init__(
        self,
        model: tinyrwkv.Model,
        client: mqtt.Client,
        prefix: str = "tinyrwkv",
        waiting: int = 8,
        longest: float = 30,
    ) -> None:
        self.model, self.client, self.prefix, self.longest = model, client, prefix, longest
        self.template = template(model.config.get("template", "chat"))
        self.requests: queue.Queue[Request] = queue.Queue(waiting)
        self.pending: dict[str, Request] = {}  # waiting, and the one being answered
        self.lock = threading.Lock()
        self.stopping = self.told_of_no_broker = False
        self.said: tuple[tinyrwkv.State, list[int]] | None = (
            None  # what the last answer left, and what it left unread
        )
        client.on_connect, client.on_message, client.on_disconnect = (
            self._connected,
            self._received,
            self._lost,
        )
        client.on_connect_fail = self._not_there
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(100)  # responses that wait for the broker to come back
        client.will_set(f"{prefix}/status", json.dumps({"online": False}), qos=1, retain=True)

    def run(self) -> None:
        """Answer until `stop`, then say that nobody is here any more."""
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
        """End `run`, from any thread or a signal handler: nothing here waits for a lock."""
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
        """Answer a request: its pieces as they come, then one response, whatever happens."""
        try:
            response = self._generate(request)
        except TinyRWKVError as error:
            response = {"error": str(error)}
        with self.lock:
            del self.pending[request.id]
        self._publish(f"response/{request.id}", {"id": request.id, **response}, qos=1)

    def _generate(self, request: Request) -> dict[str, Any]:
        begin = time.monotonic()
        state, unread = (None, []) if request.reset or self.said is None else self.said
        prompt = self.template.prompt(request.prompt, first=state is None)
        generation = self.model.generate(
            [*([0] if state is None else unread), *self.model.tokenizer.encode(prompt)],
            state=state or self.model.new_state(),
            sampler=request.sampler,
            max_tokens=request.max_tokens,
            stop=self.template.stop if request.stop is None else request.stop,
            deadline=request.until,
            constraint=self._constraint(request.constraint),
        )
        request.generation = generation
        if request.cancelled:  # meanwhile
            generation.cancel()
        for number, piece in enumerate(generation):
            if piece.text:
                told = {
                    "id": request.id,
                    "number": number,
                    "text": piece.text,
                    "logprob": round(piece.logprob, 4),
                }
                self._publish(f"partial/{request.id}", told)
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
        lead = (
            " " if self.template.answer_prefix else ""
        )  # the models write a blank after "Assistant:"
        for name, value in (told or {}).items():
            if type(value) is not {"choice": list, "regex": str}.get(name, dict):
                raise refuse("constraint", told, "what docs/mqtt.md says")
            return CONSTRAINTS[name](value, lead)
        return None

    def _publish(
        self, topic: str, told: dict[str, Any], qos: int = 0, retain: bool = False, wait: float = 0
    ) -> None:
        sent = self.client.publish(f"{self.prefix}/{topic}", json.dumps(told), qos, retain)
        if wait:
            with contextlib.suppress(RuntimeError, ValueError):  # the broker is not there
                sent.wait_for_publish(wait)

    # What the network's thread calls: nothing here may wait, and no exception may leave it.

    def _connected(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        if reason.is_failure:
            print(f"mqtt_bridge: refused: {reason}", file=sys.stderr)
            return
        client.subscribe([(f"{self.prefix}/request", 1), (f"{self.prefix}/cancel", 1)])
        self._publish("status", {"online": True, "model": self.model.hash}, qos=1, retain=True)
        print(f"mqtt_bridge: ready, {self.prefix}/request", file=sys.stderr, flush=True)

    def _not_there(self, client: mqtt.Client, data: object) -> None:
        if not self.told_of_no_broker:
            print(
                f"mqtt_bridge: no broker at {client.host}:{client.port} yet; trying on",
                file=sys.stderr,
                flush=True,
            )
        self.told_of_no_broker = True

    def _lost(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        if not self.stopping:
            print(
                f"mqtt_bridge: connection lost: {reason}; connecting again",
                file=sys.stderr,
                flush=True,
            )

    def _received(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        topic, id = "error", None
        try:
            if message.topic.endswith("/cancel"):
                self.cancel(
                    valid_id(json.loads(message.payload)["id"]) if message.payload else None
                )
            elif not message.retain:
                told = read(message.payload)
                topic, id = f"response/{told['id']}", told["id"]
                self._accept(parse(told, self.longest))
        except TinyRWKVError as error:
            self._publish(topic, {"id": id, "error": str(error)}, qos=1)
        except (ValueError, TypeError, KeyError, RecursionError):
            self._publish(
                "error",
                {"id": None, "error": str(refuse("cancel", message.payload[:60], '{"id": "..."}'))},
            )

    def _accept(self, request: Request) -> None:
        if self.stopping:
            raise ArgumentError(
                "bridge", "request", "a bridge that is ending", "one that runs", "ask again later"
            )
        with self.lock:
            if (
                request.id in self.pending
            ):  # sent again by the broker, which has not heard that it arrived
                return
            self.pending[request.id] = request
        try:
            self.requests.put_nowait(request)
        except queue.Full:
            with self.lock:
                del self.pending[request.id]
            found, expected = f"{self.requests.maxsize} requests that wait", "fewer"
            raise ArgumentError(
                "bridge", "queue", found, expected, "cancel some, or ask again later"
            ) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a .trwkv file (default: the small bundled model)"
    )
    parser.add_argument("--host", default="localhost", help="of the broker (default: localhost)")
    parser.add_argument("--port", type=int, default=1883, help="default: 1883")
    parser.add_argument("--prefix", default="tinyrwkv", help="of all topics (default: tinyrwkv)")
    parser.add_argument(
        "--username", help="the password is read from the environment: MQTT_PASSWORD"
    )
    parser.add_argument(
        "--tls", action="store_true", help="encrypt, with the system's certificates"
    )
    parser.add_argument(
        "--waiting", type=int, default=8, metavar="N", help="requests that may wait (default: 8)"
    )
    parser.add_argument(
        "--longest", type=float, default=30, metavar="S", help="seconds for a request (default: 30)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads for each token (default: 1)"
    )
    options = parser.parse_args(argv)
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
    client.loop_start()  # connects, again and again until the broker is there
    bridge.run()
    client.loop_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
