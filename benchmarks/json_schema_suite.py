"""Judge `JsonSchema` by the JSON-Schema-Test-Suite, which is a repository of its own.

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
    python benchmarks/json_schema_suite.py JSON-Schema-Test-Suite

A schema counts as accepted if `JsonSchema` takes it. A constraint may be narrower than its schema,
but never wider. So an instance that is not valid and yet allowed is an error, and ends the command
with 1. Every instance is tried as ``json.dumps`` writes it, and its numbers with more zeros too.
`--refused` shows why schemas are refused, and `--narrow` the valid instances that are not allowed.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinyrwkv import JsonSchema, TinyRWKVError  # noqa: E402

DRAFTS = ("draft7", "draft2020-12")


class Group(NamedTuple):
    """A schema of the suite, and instances with the verdict on each."""

    place: str
    schema: Any
    instances: list[tuple[Any, bool]]


class Judged(NamedTuple):
    """What came of one group.

    Attributes
    ----------
    refused : str
        Why the schema was refused; empty if it was not.
    allowed, narrow, wrong : list of str
        The valid instances that are allowed, the valid ones that are not, and the instances that
        are allowed but not valid.
    """

    group: Group
    refused: str
    allowed: list[str]
    narrow: list[str]
    wrong: list[str]


def groups_of(folder: pathlib.Path) -> Iterator[Group]:
    """Yield the groups of all files in a folder, and below it."""
    for path in sorted(folder.rglob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            instances = [(test["data"], test["valid"]) for test in group["tests"]]
            place = f"{path.relative_to(folder)}: {group['description']}"
            yield Group(place, group["schema"], instances)


def judge(group: Group) -> Judged:
    """Try every instance of a group."""
    try:
        constraint = JsonSchema(group.schema)
    except TinyRWKVError as error:
        return Judged(group, str(error), [], [], [])
    found: dict[str, list[str]] = {"allowed": [], "narrow": [], "wrong": []}
    for value, valid in group.instances:
        text = json.dumps(value, ensure_ascii=False)
        allows = any(constraint.matches(one) for one in spellings(text) if encodes(one))
        if valid:
            found["allowed" if allows else "narrow"].append(text)
        elif allows:
            found["wrong"].append(text)
    return Judged(group, "", **found)


def spellings(text: str) -> list[str]:
    """Return JSON with its numbers as they are, with a point, and with a zero at the end."""
    if '"' in text:
        return [text]  # digits in a string mean themselves
    whole = re.compile(r"(?<![\d.])(-?\d+)(?![\d.eE])")
    return [text, whole.sub(r"\1.0", text), re.sub(r"(\.\d+)(?![\deE])", r"\g<1>0", text)]


def encodes(text: str) -> bool:
    """Tell whether UTF-8 can write a text: it cannot write half a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def report(draft: str, judged: list[Judged]) -> dict[str, Any]:
    """Return the counts of one draft."""
    accepted = [one for one in judged if not one.refused]
    return {
        "draft": draft,
        "schemas": len(judged),
        "accepted": len(accepted),
        "valid_allowed": sum(len(one.allowed) for one in accepted),
        "valid_narrow": sum(len(one.narrow) for one in accepted),
        "wrong": sum(len(one.wrong) for one in accepted),
    }


def show(judged: list[Judged], options: argparse.Namespace) -> None:
    """Print what is wrong, and what the options ask for."""
    for one in judged:
        for text in one.wrong:
            print(f"not valid, but allowed: {one.group.place}: {text[:100]}")
        if options.narrow:
            for text in one.narrow:
                print(f"valid, but not allowed: {one.group.place}: {text[:100]}")
    if options.refused:
        reasons = collections.Counter(
            re.sub(r"^\S+ (has|is)", r"\1", one.refused.partition(";")[0])
            for one in judged
            if one.refused
        )
        for reason, count in reasons.most_common():
            print(f"{count:5}  {reason}")


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return 1 if an instance that is not valid was allowed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=pathlib.Path, help="a checkout of JSON-Schema-Test-Suite")
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    parser.add_argument("--refused", action="store_true", help="print why schemas are refused")
    parser.add_argument("--narrow", action="store_true", help="print what could be allowed too")
    options = parser.parse_args(argv)
    reports = []
    for draft in DRAFTS:
        folder = options.suite / "tests" / draft
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}; give a checkout of JSON-Schema-Test-Suite")
        judged = [judge(group) for group in groups_of(folder)]
        if not options.json:
            show(judged, options)
        reports.append(report(draft, judged))
    if options.json:
        print(json.dumps(reports, indent=2))
    else:
        for one in reports:
            print(
                f"{one['draft']}: {one['accepted']} of {one['schemas']} schemas accepted;"
                f" valid instances: {one['valid_allowed']} allowed,"
                f" {one['valid_narrow']} not; {one['wrong']} wrong"
            )
    return int(any(one["wrong"] for one in reports))


if __name__ == "__main__":
    sys.exit(main())
