"""Keeps the messages that an MQTT client does not take at once, and publishes them in order.

A client of paho has a queue of its own with a bound. ``publish`` refuses what does not fit, and
says so only in its result. Nothing that is put here is lost for that reason.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt

TAKEN = (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN)
"""Results of ``publish`` after which the message is in the client's hands.

Without a connection, the client keeps a message of QoS 1 until there is one.
"""

MANY = 100
"""So many messages wait only if the broker does not take them as fast as they come."""

LOOK_AGAIN = 0.1
"""Seconds after which the client is asked again, even if it has not told of room."""


def note(text: str) -> None:
    """Tell the person who started the bridge."""
    print(f"mqtt_bridge: {text}", file=sys.stderr, flush=True)


class Message(NamedTuple):
    """What is to be published."""

    topic: str
    payload: str
    qos: int
    retain: bool


class Outbox:
    """Publishes messages in a thread of its own.

    The callbacks of a client must not publish, because the client holds its locks meanwhile. They
    put messages here, which never waits.

    Parameters
    ----------
    client : paho.mqtt.client.Client
    prefix : str
        The beginning of all topics.
    most : int
        With so many messages there is no more `room`.
    """

    def __init__(self, client: mqtt.Client, prefix: str, most: int = 10_000) -> None:
        self.client = client
        self.prefix = prefix
        self.most = most
        self._waiting: deque[Message] = deque()
        self._answers = 0  # that wait: messages of QoS 1
        self._refused = False  # whether the client had no room for the last one
        self._changed = threading.Condition()
        self._closing = False
        self._last: mqtt.MQTTMessageInfo | None = None  # of QoS 1
        self._unsent: deque[mqtt.MQTTMessageInfo] = deque()  # of QoS 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    @property
    def room(self) -> bool:
        """Whether the answer to one more message can be kept."""
        return self._answers < self.most

    @property
    def is_behind(self) -> bool:
        """Whether messages come faster than the broker takes them."""
        return self._answers >= MANY

    def put(self, topic: str, told: dict[str, Any], qos: int = 0, retain: bool = False) -> None:
        """Publish a JSON object as soon as the client takes it.

        A message of QoS 0 is left out while the client has no room.
        """
        if qos == 0 and (self._refused or self.is_behind):
            return
        message = Message(f"{self.prefix}/{topic}", json.dumps(told), qos, retain)
        with self._changed:
            self._waiting.append(message)
            self._answers += qos > 0
            self._changed.notify_all()

    def wake(self) -> None:
        """Try again now, because the client has room."""
        with self._changed:
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Give the broker some seconds to take what waits, then end the thread."""
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._last is not None:
            with contextlib.suppress(RuntimeError, ValueError):  # the broker is not there
                self._last.wait_for_publish(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                message = self._waiting[0]
            taken = self._publish(message)  # without our lock, because the client has its own
            with self._changed:
                self._refused = not taken
                if taken:
                    self._waiting.popleft()
                    self._answers -= message.qos > 0
                    self._changed.notify_all()
                elif not self._closing:
                    self._changed.wait(LOOK_AGAIN)

    def _publish(self, message: Message) -> bool:
        """Offer a message to the client; return whether it is off our hands."""
        if message.qos == 0 and self._has_many_unsent():
            return True
        try:
            sent = self.client.publish(*message)
        except Exception as error:  # whatever it is, the next message must still go out
            note(f"a message to {message.topic} was lost: {error!r}")
            return True
        if message.qos > 0 and sent.rc in TAKEN:
            self._last = sent
        elif sent.rc == mqtt.MQTT_ERR_SUCCESS:
            self._unsent.append(sent)
        return message.qos == 0 or sent.rc in TAKEN

    def _has_many_unsent(self) -> bool:
        """Tell whether the network is behind. The client's queue has no bound for QoS 0."""
        while self._unsent and _is_gone(self._unsent[0]):
            self._unsent.popleft()
        return len(self._unsent) >= MANY


def _is_gone(sent: mqtt.MQTTMessageInfo) -> bool:
    """Tell whether a message was sent, or lost with the connection."""
    try:
        return sent.is_published()
    except (RuntimeError, ValueError):
        return True
