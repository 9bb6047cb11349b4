# A token can cost memory that the system cannot take back. How much? The weights do not count: they
# are clean pages of the file.
import pathlib
import sys

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

import tinyrwkv
from tinyrwkv.file import memory

model = tinyrwkv.load()
_, state = model.forward([0])
kept, before = [], memory.process_memory().get("anon")
for token in range(1, 201):
    kept.append(
        model.forward(token, state)[1]
    )  # one state for each of 200 tokens, all of them kept
grown = memory.process_memory().get("anon", 0) - (before or 0)

expected = len(kept) * model.plan()["touched_bytes_per_token"]  # <- repair this line
assert before is None or 0.9 * expected < grown < 1.2 * expected, (grown, expected)
assert expected < 200 * model.plan()["file_bytes"] / 10, expected
