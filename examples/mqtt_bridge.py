"""Answer requests over MQTT.

It has one model, a bounded queue, partial answers, cancelling and deadlines, and connects again.

    sudo apt install mosquitto mosquitto-clients python3-numpy python3-venv
    python3 -m venv --system-site-packages ~/mqtt-venv      # so that pip may install something
    ~/mqtt-venv/bin/pip install "paho-mqtt>=2"
    ~/mqtt-venv/bin/python examples/mqtt_bridge.py --prefix robot/brain
    mosquitto_sub -v -t 'robot/brain/#' &
    mosquitto_pub -t robot/brain/request -m '{"id": "1", "prompt": "turn left", "deadline": 2}'
    mosquitto_pub -t robot/brain/cancel -n                  # an empty message cancels all

docs/mqtt.md describes the topics and the keys of requests. While the broker is there, every request
gets exactly one response, under PREFIX/response/ID. Retained messages are not taken as requests,
because the broker would send them again to every bridge that starts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from tinyrwkv.chat.templates import template
from tinyrwkv.constraints.constraint import Constraint
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.robot.commander import THRESHOLD
from tinyrwkv.robot.confidence import Weighed
from tinyrwkv.robot.scripts import Scripts
from tinyrwkv.robot.told import told

try:
    import paho.mqtt.client as mqtt
except ModuleNotFoundError:
    sys.exit("paho-mqtt 2 or later is missing: docs/mqtt.md says how to install it")
if not hasattr(mqtt, "CallbackAPIVersion"):
    sys.exit("paho-mqtt 1 is too old: docs/mqtt.md says how to install version 2")

from mqtt_outbox import Outbox, note
from mqtt_requests import CONSTRAINTS, KINDS, Request, parse, read, refuse

MOST_UNREAD = 100
"""Messages that may wait unread while there is no room for answers.

By default, mosquitto sends at most 20 that the bridge has not acknowledged.
"""

MOST_CHARACTERS = 1000  # of an error
SECONDS_TO_END = 5  # for the broker to take the last answers


def explained(error: Exception) -> str:
    """Return what to tell whoever sent a message that could not be done."""
    if isinstance(error, TinyRWKVError):
        return str(error)[:MOST_CHARACTERS]
    note(f"a message could not be done: {error!r}"[:MOST_CHARACTERS])
    return f"the bridge could not do this: {type(error).__name__}; see docs/mqtt.md"


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
    threshold : float
        Log-probability below which a script is only a guess.
    kept : int
        Most messages that are kept while the broker does not take them.
    """

    def __init__(
        self,
        model: tinyrwkv.Model,
        client: mqtt.Client,
        prefix: str = "tinyrwkv",
        waiting: int = 8,
        longest: float = 30,
        threshold: float = THRESHOLD,
        kept: int = 10_000,
    ) -> None:
        self.model = model
        self.client = client
        self.prefix = prefix
        self.longest = longest
        self.threshold = threshold
        self.outbox = Outbox(client, prefix, kept)
        self.template = template(model.config.get("template", "chat"))
        self.requests: queue.Queue[Request] = queue.Queue(waiting)
        self.pending: dict[str, Request] = {}  # waiting, and the one being answered
        self.lock = threading.Lock()
        self.unread: deque[mqtt.MQTTMessage] = deque()
        self.stopping = False
        self.told_of_no_broker = False
        # The state after the last answer, and its tokens that the model has not read.
        self.said: tuple[tinyrwkv.State, list[int]] | None = None
        client.on_connect = self._connected
        client.on_message = self._received
        client.on_publish = self._taken
        client.on_disconnect = self._lost
        client.on_connect_fail = self._not_there
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(100)  # the outbox keeps what does not fit
        client.manual_ack_set(True)  # a message is acknowledged when there is room for its answer
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
            self.outbox.put("status", {"online": False}, qos=1, retain=True)
            self.outbox.close(SECONDS_TO_END)
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
        except Exception as error:  # whatever a request does, the next one gets its answer too
            response = {"error": explained(error)}
        with self.lock:
            del self.pending[request.id]
        self.outbox.put(f"response/{request.id}", {"id": request.id, **response}, qos=1)

    def _generate(self, request: Request) -> dict[str, Any]:
        begin = time.monotonic()
        said = None if request.reset else self.said
        state, unread = said or (self.model.new_state(), [0])  # token 0 begins a document
        prompt = self.template.turn(request.prompt, first=said is None)
        constraint = self._constraint(request.constraint)
        # Under a grammar with bounds, a model would write another number than was said.
        wide = constraint.with_any_number() if isinstance(constraint, Scripts) else constraint
        weighed = None if wide is None else Weighed(wide)
        generation = self.model.generate(
            [*unread, *self.model.tokenizer.encode(prompt)],
            state=state,
            sampler=request.sampler,
            max_tokens=request.max_tokens,
            stop=self.template.stop if request.stop is None else request.stop,
            deadline=request.until,
            constraint=weighed,
        )
        request.generation = generation
        if request.cancelled:  # while this generation was being made
            generation.cancel()
        logprob = 0.0
        for number, piece in enumerate(generation):
            logprob += piece.logprob
            if piece.text:
                self._put_piece(request, number, piece)
        if weighed is not None:
            logprob += weighed.log_share
        result = generation.result
        self.said = result.state, result.unread
        response = {
            "text": result.text,
            "stop_reason": result.stop_reason,
            "tokens": len(result.tokens),
            "logprob": round(logprob, 4) if math.isfinite(logprob) else None,
            "waited_s": round(begin - request.arrived, 4),
            "seconds": round(time.monotonic() - begin, 4),
        }
        if isinstance(constraint, Scripts) and isinstance(wide, Scripts):
            what = (request.prompt, result, logprob, constraint, self.threshold, wide)
            response |= told(*what)
        return response

    def _constraint(self, asked: dict[str, Any] | None) -> Constraint | None:
        if asked is None:
            return None
        ((name, value),) = asked.items()
        if type(value) is not KINDS[name]:
            raise refuse("constraint", asked, f"of type {KINDS[name].__name__} under {name}")
        # The models write a space after "Assistant:".
        prefix = " " if self.template.answer_prefix else ""
        return CONSTRAINTS[name](value, prefix)

    def _put_piece(self, request: Request, number: int, piece: tinyrwkv.Piece) -> None:
        part = {
            "id": request.id,
            "number": number,
            "text": piece.text,
            "logprob": round(piece.logprob, 4),
        }
        self.outbox.put(f"partial/{request.id}", part)

    # The thread of the network calls the methods below. They must not wait, publish or raise.

    def _connected(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        if reason.is_failure:
            note(f"refused: {reason}")
            return
        client.subscribe([(f"{self.prefix}/request", 1), (f"{self.prefix}/cancel", 1)])
        self.outbox.put("status", {"online": True, "model": self.model.hash}, qos=1, retain=True)
        note(f"ready, {self.prefix}/request")

    def _not_there(self, client: mqtt.Client, data: object) -> None:
        if not self.told_of_no_broker:
            note(f"no broker at {client.host}:{client.port} yet; trying again")
        self.told_of_no_broker = True

    def _lost(
        self, client: mqtt.Client, data: object, flags: object, reason: Any, properties: object
    ) -> None:
        self.unread.clear()  # the broker forgets them too
        if not self.stopping:
            note(f"connection lost: {reason}; connecting again")

    def _received(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        """Read a message now, or later if there is no room for its answer."""
        if message.topic.endswith("/cancel"):  # it must not wait, and needs no answer
            self._handle(message)
            client.ack(message.mid, message.qos)
            return
        if len(self.unread) >= MOST_UNREAD:
            note("a message was left out: there are too many, and the broker takes no answers")
            return
        self.unread.append(message)
        self._read_on()

    def _taken(
        self, client: mqtt.Client, data: object, mid: int, reason: object, properties: object
    ) -> None:
        """Go on, because the broker has taken a message."""
        self.outbox.wake()
        self._read_on()

    def _read_on(self) -> None:
        """Read the messages that wait, as far as there is room for answers."""
        while self.unread and self.outbox.room:
            message = self.unread.popleft()
            self._handle(message)
            self.client.ack(message.mid, message.qos)

    def _handle(self, message: mqtt.MQTTMessage) -> None:
        """Do what a message says, or put one error. There is no payload that raises anything."""
        topic = "error"
        id = None
        try:
            if message.topic.endswith("/cancel"):
                self._cancel_request(message.payload)
            elif not message.retain:
                asked = read(message.payload)
                id = asked["id"]
                topic = f"response/{id}"
                self._accept(parse(asked, self.longest))
        except Exception as error:  # an exception would end the thread of the network
            if id is None and not self.outbox.room:
                return  # nobody waits for this answer
            self.outbox.put(topic, {"id": id, "error": explained(error)}, qos=1)

    def _cancel_request(self, payload: bytes) -> None:
        """Cancel the request that a message names, or all if the message is empty."""
        self.cancel(read(payload)["id"] if payload else None)

    def _accept(self, request: Request) -> None:
        if self.stopping:
            found = "a bridge that is ending"
            what = ("bridge", "request", found, "one that runs")
            raise ArgumentError(*what, "ask again later", "the bridge is ending")
        if self.outbox.is_behind:
            found = "answers that the broker does not take"
            what = ("bridge", "answers", found, "few")
            sentence = "the broker does not take the answers as fast as they come"
            raise ArgumentError(*what, "ask again later", sentence)
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
    threshold = "log-probability from which a script is trusted (default: %(default)s)"
    add("--threshold", type=float, default=THRESHOLD, metavar="L", help=threshold)
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
        how = (options.prefix, options.waiting, options.longest, options.threshold)
        bridge = Bridge(model, client, *how)
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
