"""Draw the memory of this engine beside others.

    python docs/pictures/memory_bars.py docs/pictures/memory-bars.svg

The figures are those of benchmarks/results/peers.json, which benchmarks/peers.py writes.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib

from matplotlib import pyplot as plt

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "peers.json"


def main(path: str) -> None:
    """Write the picture."""
    runs = [run for run in json.loads(RESULTS.read_text("utf-8"))["runs"] if run["threads"] == 1]
    runs.sort(key=lambda run: run["rss"])
    names = [run["engine"] for run in runs]
    own = [run["anon"] / 1e6 for run in runs]
    rest = [(run["rss"] - run["anon"]) / 1e6 for run in runs]
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.55 * len(runs)), layout="constrained")
    axes.barh(names, own, color="#e45756", label="its own: cannot be dropped")
    axes.barh(
        names, rest, left=own, color="#4c78a8", label="pages of files: dropped when there is need"
    )
    for place, run in enumerate(runs):
        axes.text(run["rss"] / 1e6, place, f" {run['rss'] / 1e6:,.0f} MB", va="center")
    axes.set(
        xlabel="MB in memory after the run", xlim=(0, 1.3 * max(run["rss"] for run in runs) / 1e6)
    )
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    lines = [
        line.rstrip() for line in drawn.getvalue().splitlines()
    ]  # matplotlib ends some with a blank
    pathlib.Path(path).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", help="the .svg to write")
    main(parser.parse_args().picture)
