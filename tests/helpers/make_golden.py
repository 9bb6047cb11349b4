"""Write tests/golden/*.npz: tiny random checkpoints and what the official package makes of them.

Run it when a version is added or the format of the files changes, with an interpreter that has
torch and rwkv: ``python -m tests.helpers.make_golden [VERSION ...]``. The files in the repository
come from rwkv 0.8.32 and torch 2.13.0 on x86-64. Those of v7a and v8-rc00 need torch alone: see
``official.py``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tests.helpers.checkpoints import VERSIONS, raw_checkpoint
from tests.helpers.golden_files import FOLDER, TUNED, bf16, narrow, read_golden, time_states
from tests.helpers.official import official_version, run_official

KEPT = (1, 2, 17)  # the numbers of tokens after which logits are kept
SMALL = {"n_embd": 32, "vocab_size": 32}


def main() -> None:
    """Write one file for each version, or for those that are named."""
    FOLDER.mkdir(exist_ok=True)
    for version in sys.argv[1:] or VERSIONS:
        # Of each token a deep embedding holds thousands of numbers: those models are smaller.
        sizes = SMALL if version in ("v7a", "v8-rc00") else {}
        tokens = np.random.default_rng(17).integers(0, sizes.get("vocab_size", 256), max(KEPT))
        tokens[9] = tokens[3]  # a token seen before
        # Numbers that bfloat16 holds exactly: the same checkpoint whatever type it is saved in.
        raw = {name: bf16(x) for name, x in raw_checkpoint(version, seed=1, **sizes).items()}
        answer = run_official(raw, version, tokens.tolist())
        bf16_answer = run_official(raw, version, tokens.tolist(), dtype="bfloat16")
        logits = answer.pop("logits")  # (T, V)
        arrays: dict[str, Any] = {
            "tokens": tokens.astype(np.int32),
            "bf16_file": bf16_answer["logits"][-1],
        }
        arrays |= {f"logits.{n}": logits[n - 1] for n in KEPT}
        arrays |= {f"raw.{name}": narrow(x) for name, x in raw.items()}
        path = FOLDER / f"{version}.npz"
        np.savez_compressed(path, **arrays | answer)
        size, spread = path.stat().st_size, logits.std()
        print(f"{path.name}: {size} bytes, logits std {spread:.3f}, {official_version()}")
    if not sys.argv[1:]:
        write_tuned()


def write_tuned() -> None:
    """Write the logits that the same checkpoints give from a tuned state on."""
    arrays = {}
    for version in TUNED:
        golden = read_golden(version)
        tuned = time_states(golden.raw)
        logits = run_official({**golden.raw, **tuned}, version, golden.tokens)["logits"]
        arrays |= {f"{version}.logits.{n}": logits[n - 1] for n in KEPT}
        differs = np.abs(logits[0] - golden.logits[1]).max()
        print(f"tuned {version}: logits differ by {differs:.3f}, {official_version()}")
    np.savez_compressed(FOLDER / "tuned_states.npz", **arrays)


if __name__ == "__main__":
    main()
