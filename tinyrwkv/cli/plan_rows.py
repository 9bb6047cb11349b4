"""The rows of a table of a memory plan."""

from __future__ import annotations

from ..engine.plan import MemoryPlan, PartPlan


def together(plan: MemoryPlan) -> PartPlan:
    """Return the bytes of all parts together, for the last row of a table of parts."""
    return {
        "part": "together",
        "file_bytes": plan["file_bytes"],
        "touched_bytes_per_token": plan["touched_bytes_per_token"],
        "resident_bytes_max": plan["resident_bytes_max"],
    }
