"""Compare the speed of a compressed model with that of the same weights in dense int8.

python benchmarks/lite.py --layers 12 --width 768
python benchmarks/lite.py --layers 8 --width 384 --make lite.trwkv      # only write the lite model

All run in one process and take turns, the same techniques on int8 among them. The weights are those
of a random RWKV-5.2, except for the channel mixes. Their keys are shifted against a constant part
of their inputs. So as few neurons fire as in trained models: 7 % in the first layer, 19 % in the
last. All techniques of ``--preset lite`` are applied, whatever they cost weights without structure.
The model writes the text that they are fitted to.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common, random_checkpoint
from benchmarks.random_model import sizes
from benchmarks.tokens import Run
from converters.compress.compress import compress
from converters.compress.presets import PRESETS
from converters.judge.cost import sample_cold
from converters.write.convert import convert
from tinyrwkv import Model

FIRING = (0.07, 0.19)
"""Share of the neurons that fire, in the first layer and in the last."""

LITE = PRESETS["lite"]._replace(max_nll_rise=None)
FORMS = {"dense": None, "lite_int8": LITE._replace(int4=None), "lite": LITE}
"""The options of each file; a dense one has none."""


def fire_rarely(checkpoint: str, layers: int) -> None:
    """Shift the keys of all channel mixes so that few neurons fire.

    With ``ln2.bias = 1`` everywhere K_f . x is about normal. Its mean is the sum of row f of K. Its
    deviation comes from the rest of x, which is normed, weighted and mixed with the token before.
    """
    tensors = random_checkpoint.read(checkpoint, "r+")
    for layer, share in enumerate(np.linspace(*FIRING, layers)):
        block = f"blocks.{layer}."
        K, weight = tensors[block + "ffn.key.weight"], tensors[block + "ln2.weight"]  # (F, C), (C,)
        mix = tensors[block + "ffn.time_mix_k"].reshape(-1)  # (C,)
        deviation = np.sqrt(
            np.square(K) @ (np.square(weight) * (np.square(mix) + np.square(1 - mix)))
        )  # (F,)
        mean = deviation * statistics.NormalDist().inv_cdf(share)  # (F,)
        K += ((mean - K.sum(axis=1)) / K.shape[1])[:, None]
        tensors[block + "ln2.bias"][:] = 1
        K.flush()


def make(shape: tuple[int, int, int], paths: Mapping[str, str]) -> None:
    """Write the forms of a random model that have a path."""
    first = os.path.abspath(next(iter(paths.values())))
    with tempfile.TemporaryDirectory(dir=os.path.dirname(first)) as folder:
        checkpoint = f"{folder}/random.safetensors"
        random_checkpoint.write(checkpoint, sizes("v5.2", *shape))
        fire_rarely(checkpoint, shape[0])
        for form, path in paths.items():
            options = FORMS[form]
            if options is None:
                convert(checkpoint, path)
            else:
                compress(checkpoint, path, options)


def silent(model: Model) -> float:
    """Return the share of the neurons that do not fire, as the compressed file tells it."""
    layers = [
        layer for step in model.config["compression"] for layer in step["report"].get("layers", [])
    ]
    return statistics.mean(layer["sparsity"] for layer in layers if "sparsity" in layer)


def compare(
    shape: tuple[int, int, int],
    threads: Sequence[int],
    tokens: int = 64,
    turns: int = 9,
    folder: str | None = None,
) -> dict[str, Any]:
    """Return all speeds and their ratios for each number of threads; files as in ``--folder``."""
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory())
        name = "x".join(map(str, shape))
        paths = {form: os.path.join(folder, f"random-{name}-{form}.trwkv") for form in FORMS}
        missing = {form: path for form, path in paths.items() if not os.path.exists(path)}
        if missing:
            make(shape, missing)
        touched = {form: sample_cold(path).touched for form, path in paths.items()}
        about = common.machine(threads)
        runs = {(form, n): Run(path, "auto", n) for n in threads for form, path in paths.items()}
        for _ in range(turns):
            for run in runs.values():
                run.turn(tokens, 1)
    speeds = {key: 1 / statistics.median(run.latencies) for key, run in runs.items()}
    return {
        **{
            "machine": about,
            "do_not_fire": silent(runs["lite", threads[0]].model),
            "touched_bytes_per_token": touched,
        },
        "decode_tok_s": {
            form: {str(n): round(speeds[form, n], 2) for n in threads} for form in FORMS
        },
        "ratio": {
            form: {str(n): round(speeds["lite", n] / speeds[form, n], 3) for n in threads}
            for form in ("dense", "lite_int8")
        },
    }


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="default: 12")
    parser.add_argument("--width", type=int, default=768, metavar="N", help="default: 768")
    parser.add_argument("--vocab", type=int, default=65536, metavar="N", help="default: 65536")
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="to decode in a turn (default: 64)"
    )
    parser.add_argument("--turns", type=int, default=9, metavar="N", help="default: 9")
    parser.add_argument(
        "--folder",
        metavar="F",
        help="keep the files here, and take what is there (default: neither)",
    )
    parser.add_argument(
        "--make", metavar="FILE", help="write the compressed model here, and measure nothing"
    )
    options = parser.parse_args(argv)
    shape = (options.layers, options.width, options.vocab)
    if options.make:
        make(shape, {"lite": options.make})
        return
    if options.folder:
        os.makedirs(options.folder, exist_ok=True)
    result = compare(shape, options.threads, options.tokens, options.turns, options.folder)
    speeds, ratios, touched = (
        result[key] for key in ("decode_tok_s", "ratio", "touched_bytes_per_token")
    )
    rows = [
        (n, *(speeds[form][n] for form in FORMS), *(f"{by[n]:.2f}" for by in ratios.values()))
        for n in map(str, options.threads)
    ]
    text = (
        f"{100 * result['do_not_fire']:.0f} % of the neurons do not fire; read for a token: "
        + ", ".join(f"{form} {count / 1e6:.1f} MB" for form, count in touched.items())
    )
    head = ("threads", *(f"{form} tok/s" for form in FORMS), *(f"by {form}" for form in ratios))
    common.finish("lite", options, result, f"{text}\n{common.table(rows, head)}")


if __name__ == "__main__":
    common.run(main)
