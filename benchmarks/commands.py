"""Write instructions to a robot in many wordings, each with its script.

python benchmarks/commands.py > reworded.txt

A threshold of confidence is chosen on this text. Its wordings are not those that the bundled model
was trained on, and not those of tests/data/commands-human.txt, which the threshold is judged on.
The scripts follow the conventions of tests/data/README.md.
"""

from __future__ import annotations

import argparse
import random
import sys

PLACES = [
    "kitchen",
    "garden",
    "office",
    "lobby",
    "workshop",
    "bedroom",
    "greenhouse",
    "library",
    "pantry",
    "stairs",
]
THINGS = [
    "cup",
    "hammer",
    "key",
    "ball",
    "towel",
    "marker",
    "screwdriver",
    "box",
    "torch",
    "saucepan",
    "ticket",
]
KINDS = ["", "", "", "red ", "small ", "yellow ", "heavy ", "striped "]
SURFACES = ["table", "shelf", "tray", "floor", "counter", "workbench"]
PEOPLE = ["nurse", "child", "dog", "visitor", "gardener"]
WORDS = ["hello", "good night", "lunch is served", "mind the step", "all done", "back in a moment"]
DIGITS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]

# What is said, and its script. {n} is a number up to 12, {a} degrees, {c} centimetres.
LEFT_AND_RIGHT = ("left", ""), ("right", "-")
STEPS = [
    *(
        (f"{said} {{n}} {unit}", "move({N})")
        for said in ("drive on for", "move ahead by", "proceed")
        for unit in ("m", "meters")
    ),
    *(
        (f"{said} {{n}} metres", "move(-{N})")
        for said in ("reverse by", "roll backward", "get back")
    ),
    ("{n} metres forward", "move({N})"),
    ("shift {c} centimeters to the front", "move({C})"),
    ("pull back {c} cm", "move(-{C})"),
    *(
        (f"{said} {side} by {{a}} degrees", f"turn({sign}{{a}})")
        for said in ("turn", "steer", "swivel")
        for side, sign in LEFT_AND_RIGHT
    ),
    *((f"{{a}} degrees {side}", f"turn({sign}{{a}})") for side, sign in LEFT_AND_RIGHT),
    *((f"make a half turn {side}", f"turn({sign}180)") for side, sign in LEFT_AND_RIGHT),
    *((f"turn to the {side}", f"turn({sign}90)") for side, sign in LEFT_AND_RIGHT),
    ("pause for {n} seconds", "wait({N})"),
    ("do not budge for {n} seconds", "wait({N})"),
    ("wait {n} minutes", "wait({M})"),
    *(
        (f"{said} the {{place}}", 'goto("{place}")')
        for said in ("go over to", "drive to", "pay a visit to", "get yourself to")
    ),
    ("come over to me", 'goto("user")'),
    *(
        (f"{said} the {{thing}}", 'pick("{thing}")')
        for said in ("pick up", "grab", "take hold of", "collect")
    ),
    *(
        (f"{said} me the {{thing}}", 'pick("{thing}"); goto("user"); release()')
        for said in ("bring", "pass", "get")
    ),
    (
        "fetch the {thing} from the {place}",
        'goto("{place}"); pick("{thing}"); goto("user"); release()',
    ),
    ("carry the {thing} into the {place}", 'pick("{thing}"); goto("{place}"); release()'),
    ("put the {thing} on the {surface}", 'pick("{thing}"); place("{surface}")'),
    ("set it down on the {surface}", 'place("{surface}")'),
    ("let it go", "release()"),
    ("drop what you are carrying", "release()"),
    ("open your gripper", 'gripper("open")'),
    ("close the gripper", 'gripper("close")'),
    ("follow the {person}", 'follow("{person}")'),
    ("walk behind the {person}", 'follow("{person}")'),
    ("come along with me", 'follow("user")'),
    *(
        (f"{said} {way}", f'look("{way}")')
        for said in ("look", "turn your camera")
        for way in ("up", "down", "left", "right")
    ),
    *((f"{said} {{words}}", 'say("{words}")') for said in ("say", "announce", "tell them")),
    ("report your battery level", 'report("battery")'),
    ("tell me how full the battery is", 'report("battery")'),
    ("tell me your position", 'report("position")'),
    ("measure the temperature", 'report("temperature")'),
    ("tell me how far away the wall is", 'report("distance")'),
    ("drive slowly from now on", 'speed("slow")'),
    ("speed up", 'speed("fast")'),
    ("take a snapshot", "photo()"),
    ("photograph this", "photo()"),
    ("go and charge", "dock()"),
    ("return to the charger", "dock()"),
]
UNKNOWN = [
    *(
        "wash the dishes",
        "play some jazz",
        "water the plants",
        "call my sister",
        "order a pizza",
        "read me the news",
    ),
    *(
        "paint the fence",
        "tell me a joke",
        "switch the heating on",
        "drive a little",
        "solve this riddle",
        "feed the cat",
    ),
]
FRAMES = [
    *(
        "{}",
        "{}",
        "{} please",
        "please {}",
        "can you {}",
        "robot, {}",
        "I want you to {}",
        "you may {} now",
    ),
    *("all right, {}", "next thing: {}", "would you be able to {}", "it is time to {}", "just {}"),
]


def step(generator: random.Random) -> tuple[str, str]:
    """Return one thing to do, and its script."""
    said, script = generator.choice(STEPS)
    n, hundreds = generator.randint(1, 12), generator.randint(1, 19) * 5
    words = {
        "n": generator.choice([str(n), DIGITS[n - 1]]),
        "N": n,
        "M": 60 * n,
        "c": hundreds,
        "C": f"{hundreds / 100:g}",
        "a": generator.randint(1, 36) * 5,
        "place": generator.choice(PLACES),
        "thing": generator.choice(KINDS) + generator.choice(THINGS),
        "surface": generator.choice(SURFACES),
        "person": generator.choice(PEOPLE),
        "words": generator.choice(WORDS),
    }
    return said.format(**words), script.format(**words)


def mistyped(text: str, generator: random.Random) -> str:
    """Return a text with two neighbouring letters the wrong way round."""
    at = generator.randrange(len(text) - 1)
    return (
        text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        if text[at : at + 2].isalpha()
        else text
    )


def command(generator: random.Random) -> tuple[str, str]:
    """Return a command and its script."""
    (said, script), (other, others) = step(generator), step(generator)
    kind = generator.random()
    if kind < 0.1:
        said, script = generator.choice(UNKNOWN), "unknown()"
    elif kind < 0.15:
        said, script = f"{said} if nobody is there", "unknown()"
    elif kind < 0.22:
        said, script = f"{said}, sorry, I meant {other}", others
    elif kind < 0.28:
        said = f"{said}, but do not {other}"
    elif kind < 0.5:
        said, script = (
            said + generator.choice([" and ", ", then ", ", and when that is done "]) + other,
            f"{script}; {others}",
        )
    said = generator.choice(FRAMES).format(said)
    if generator.random() < 0.15:
        said = mistyped(said, generator)
    if generator.random() < 0.5:
        said = said[0].upper() + said[1:]
    return said + generator.choice(["", ".", "!"]), script


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=1000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="of the choice (default: 1)"
    )
    options = parser.parse_args(argv)
    generator = random.Random(options.seed)
    for _ in range(options.count):
        said, script = command(generator)
        sys.stdout.write(f"User: {said}\n\nAssistant: {script}\n\n<|doc|>\n")


if __name__ == "__main__":
    main()
