"""A small robot in a flat world, which examples/robot_loop.py drives instead of motors.

What it cannot do, it says, and forgets the rest of the script. Angles are in degrees from the x
axis, positive to the left. Lengths are in metres.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass, field

from tinyrwkv.robot.budget import Motion
from tinyrwkv.robot.scripts import NOUNS, VERBS, Call, Names, Scripts

SPEEDS = {"slow": 0.25, "normal": 0.5, "fast": 1.0}  # metres per second
TURNING = 90.0  # degrees per second
CHARGE_PER_METRE = 0.002
REACH = 1.0  # metres

PLACES = {
    "user": (0.0, 0.0),
    "kitchen": (4.0, 2.0),
    "office": (-3.0, 5.0),
    "garage": (8.0, -2.0),
    "lab": (2.0, -6.0),
    "charging station": (-1.0, -1.0),
}
OBJECTS = {
    "red cup": "kitchen",
    "blue cup": "office",
    "bottle": "kitchen",
    "hammer": "garage",
    "towel": "lab",
}
SURFACES = ("table", "desk", "shelf", "floor", "counter", "tray")


@dataclass
class Robot:
    """The robot: where it is, what it holds, what it still has to do.

    `said` has the texts that it would tell the user, oldest first. `moved` is how far it has gone
    and turned in all. `spots` says where things lie that are in `objects`.
    """

    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0
    speed: str = "normal"
    holding: str | None = None
    gripper: str = "open"
    looking: str = "ahead"
    battery: float = 1.0
    places: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(PLACES))
    objects: dict[str, str] = field(default_factory=lambda: dict(OBJECTS))
    said: list[str] = field(default_factory=list)
    moved: Motion = field(default_factory=Motion)

    def __post_init__(self) -> None:
        """Begin with nothing to do."""
        self.waiting: deque[Call] = deque()
        # What is left of the present call: ("turn", 90.0), ...
        self._legs: deque[tuple[str, float]] = deque()
        self._now: Call | None = None
        self.spots = {
            thing: self.places[place]
            for thing, place in self.objects.items()
            if place in self.places
        }

    def grammar(self) -> Scripts:
        """Return the scripts that this robot can do in its world."""
        things = {"goto": Names(self.places), "pick": Names(self.objects), "place": Names(SURFACES)}
        return Scripts({**VERBS, **things, "follow": NOUNS})

    @property
    def busy(self) -> bool:
        """Whether it has anything to do."""
        return bool(self._now or self.waiting)

    def run(self, calls: list[Call]) -> None:
        """Add calls after those that wait."""
        self.waiting.extend(calls)

    def ahead(self, calls: list[Call], later: bool = False) -> Motion:
        """Return how far it would go and turn for some calls: instead of all others, or later."""
        other = copy.deepcopy(self)
        if not later:
            other.halt()
        other.run(calls)
        other.step(math.inf)
        metres, degrees = other.moved
        return Motion(metres - self.moved.metres, degrees - self.moved.degrees)

    def halt(self) -> None:
        """Stand still at once, and forget all calls."""
        self.waiting.clear()
        self._legs.clear()
        self._now = None

    def step(self, seconds: float) -> None:
        """Let time pass. This is the control part of a tick."""
        while seconds > 1e-9:
            if self._legs:
                seconds -= self._go(seconds)
            elif not self._next_call():
                return

    def _next_call(self) -> bool:
        """Finish the present call and begin the next one; return False if there is none."""
        if self._now is not None:
            self._finish(self._now)
        self._now = self.waiting.popleft() if self.waiting else None
        if self._now is not None:
            self._legs.extend(self._plan(self._now))
        return self._now is not None

    def _go(self, seconds: float) -> float:
        """Move for at most this time; return the time that it took."""
        kind, amount = self._legs.popleft()
        rate = {"turn": TURNING, "move": SPEEDS[self.speed], "wait": 1.0}[kind]
        part = math.copysign(min(abs(amount), rate * seconds), amount)
        metres, degrees = self.moved
        if kind == "turn":
            self.moved = Motion(metres, degrees + abs(part))
            self.heading = (self.heading + part + 180) % 360 - 180
        elif kind == "move":
            self.moved = Motion(metres + abs(part), degrees)
            self.x += part * math.cos(math.radians(self.heading))
            self.y += part * math.sin(math.radians(self.heading))
            self.battery = max(0.0, self.battery - CHARGE_PER_METRE * abs(part))
        if abs(amount - part) > 1e-9:
            self._legs.appendleft((kind, amount - part))
        return abs(part) / rate

    def _plan(self, call: Call) -> list[tuple[str, float]]:
        """Return the movements of a call."""
        if call.verb in ("move", "turn", "wait"):
            assert isinstance(call.argument, float)
            return [(call.verb, call.argument)]
        target = {"dock": "charging station", "follow": "user"}.get(call.verb, call.argument)
        if call.verb in ("goto", "dock", "follow") and target in self.places:
            x, y = self.places[target]
            dx = x - self.x
            dy = y - self.y
            if math.hypot(dx, dy) < 1e-6:
                return []
            turn = (math.degrees(math.atan2(dy, dx)) - self.heading + 180) % 360 - 180
            return [("turn", turn), ("move", math.hypot(dx, dy))]
        return [("wait", 0.5)]  # arms, cameras and voices take their time too

    def _finish(self, call: Call) -> None:
        """Do what a call changes at its end."""
        verb, argument = call
        if verb == "pick":
            self._pick(str(argument))
        elif verb in ("release", "place"):
            self._put(self.nearest() if verb == "release" else str(argument))
        elif verb in ("goto", "follow") and argument not in self.places:
            self._give_up(f"I do not know where the {argument} is.")
        elif verb in ("gripper", "speed"):
            setattr(self, verb, argument)
        elif verb == "look":
            self.looking = str(argument)
        elif verb == "say":
            self.said.append(str(argument))
        elif verb == "photo":
            self.said.append(f"a picture of what is {self.looking}")
        elif verb == "report":
            self.said.append(f"{argument}: {self.report(str(argument))}")
        elif verb == "dock":
            self.battery = 1.0
        elif verb == "stop":
            self.halt()

    def _pick(self, thing: str) -> None:
        """Take something that is within reach."""
        spot = self.spots.get(thing)
        distance = math.inf if spot is None else math.dist(spot, (self.x, self.y))
        if self.holding is not None:
            self._give_up(f"I cannot pick the {thing}: I hold the {self.holding}.")
        elif distance == math.inf:
            self._give_up(f"I cannot pick the {thing}: I do not know where it is.")
        elif distance > REACH:
            place = self.objects[thing]
            where = f"it is at the {place}, {distance:.1f} m away"
            self._give_up(f"I cannot pick the {thing}: {where}.")
        else:
            self.holding = thing
            del self.objects[thing], self.spots[thing]

    def _put(self, place: str) -> None:
        """Leave here what it holds."""
        if self.holding is None:
            self._give_up("I hold nothing.")
        else:
            self.objects[self.holding] = place
            self.spots[self.holding] = (self.x, self.y)
            self.holding = None

    def _give_up(self, why: str) -> None:
        """Say why a call cannot be done, and forget those after it, which may depend on it."""
        self.said.append(why)
        self.halt()

    def nearest(self) -> str:
        """Return the name of the nearest place."""
        return min(self.places, key=lambda name: math.dist(self.places[name], (self.x, self.y)))

    def report(self, what: str) -> str:
        """Return what the robot knows about itself."""
        return {
            "battery": f"{self.battery:.0%}",
            "status": f"holding the {self.holding}" if self.holding else "free",
            "position": f"{self.x:.2f}, {self.y:.2f}, {self.heading:.0f} degrees, "
            f"near the {self.nearest()}",
            "temperature": "21 degrees",
            "distance": f"{math.hypot(self.x, self.y):.2f} m from where it began",
        }[what]
