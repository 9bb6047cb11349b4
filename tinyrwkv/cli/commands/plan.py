"""``tinyrwkv plan``: the memory that a model will take, before any weight is read."""

from __future__ import annotations

import argparse
import json

from ...file.config import Config
from ...loading import load
from ...units import show_size
from .. import options as shared
from ..plan_rows import together

HELP = "show the memory that a model will take, before any weight is read"
EXAMPLES = """\
examples:
  tinyrwkv plan model.trwkv
  tinyrwkv plan model.trwkv --resident-limit 12MB --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--resident-limit",
        type=shared.size,
        metavar="SIZE",
        help="plan for this limit on the memory for the file, e.g. 12MB",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    # The plan is the same for every backend, and the NumPy backend needs no compiler.
    model = load(options.model, backend="numpy", resident_limit=options.resident_limit)
    plan = model.plan()
    if options.json:
        print(json.dumps(plan, indent=1))
        return 0
    print(f"{model.path}: {shared.describe(model.config)}\n")
    print(f"{'part':<14} {'in the file':>12} {'every token':>13} {'at most in memory':>18}")
    for part in (*plan["parts"], together(plan)):
        in_file = show_size(part["file_bytes"])
        every_token = show_size(part["touched_bytes_per_token"])
        at_most = show_size(part["resident_bytes_max"])
        print(f"{part['part']:<14} {in_file:>12} {every_token:>13} {at_most:>18}")
    measured = _measured(model.config)
    if measured is not None:
        read = f"With the rows that it chooses, a token read {show_size(measured)}"
        print(f"\n{read} when the file was made.")
    typical = show_size(plan["resident_bytes_typical"])
    print(f"\nAfter 200 tokens from a cold start, typically {typical} in memory.")
    state = show_size(plan["state_bytes"])
    workspace = show_size(plan["workspace_bytes"])
    chunk = show_size(plan["chunk_bytes"])
    print(f"Besides: {state} for each state, {workspace} of activations, and Python with NumPy.")
    print(f"States and logits after guessed tokens: up to {chunk} more; --no-lookup saves them.")
    return 0


def _measured(config: Config) -> int | None:
    """Return the bytes per token that the last step of compression measured, if any did."""
    measured = None
    for step in config.get("compression", []):
        read = step["report"].get("touched_bytes_per_token")
        if isinstance(read, (int, float)):
            measured = round(read)
    return measured
