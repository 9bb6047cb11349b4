# How many pages of 4,096 bytes does a row of the embedding touch? Rows of 384 bytes do not begin
# where pages begin.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

import tinyrwkv

entry = tinyrwkv.load().file.tensors["emb.weight"]
row_bytes = 384
starts = entry.offset + np.arange(entry.shape[0]) * row_bytes

pages = (starts + row_bytes) // 4096 - starts // 4096  # <- repair this line
both = sum(
    len({byte // 4096 for byte in range(start, start + row_bytes)}) for start in starts.tolist()
)
assert pages.sum() == both, (int(pages.sum()), both)
