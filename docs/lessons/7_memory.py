# # Resident memory and the mapped file
#
# **Claim.** A model file is not read into memory. It is *mapped*: a page takes memory only from the
# first time it is touched, and it can leave memory again without being written anywhere. So the
# plan is an upper bound, and a limit can be kept. Neither the plan nor the limit changes one bit of
# the answer.
#
# **Picture.** How much of the file is in memory while a model reads a text: all that a token needs
# from the first token on, or at most half of the file with a limit.
#
# A process has two kinds of memory. *Anonymous* pages hold its own work. If there is no room for
# them, the system must write them to swap or end the process. *Clean file pages* are copies of data
# that are on the disk anyway. The system drops them when it likes, and reads them again when they
# are touched. Weights never change, so all weights can be in clean file pages. The memory that a
# process has at a moment is its *resident set*:
#
# $$\mathrm{RSS} = \mathrm{anonymous} + \mathrm{file\ pages\ present}$$

import mmap
import pathlib
import shutil
import tempfile

import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from tinyrwkv.engine.limit import least_resident
from tinyrwkv.file import memory, system
from tinyrwkv.loading import BUNDLED

if not system.LINUX:
    print("skipped: only Linux tells which pages of a file are in a process's memory")
    raise SystemExit

# ## Loading reads nothing
#
# To begin with a cold file, we copy the model and ask the system to forget the copy. Loading it
# then reads only the table of tensors.

path = str(pathlib.Path(tempfile.mkdtemp(), "model.trwkv"))
shutil.copy(BUNDLED, path)
memory.drop_from_cache(path)
model = tinyrwkv.load(path)
plan = model.plan()
print(f"the file has {plan['file_bytes']:,} bytes; resident after loading: {model.resident():,}")

# ## One token touches what it needs
#
# A token reads all dense matrices and one row of the embedding. These pages stay in memory until
# somebody else needs the room. So the second token finds them there.

tokens = [
    0,
    *model.tokenizer.encode("User: please go forward two meters and then turn left\n\nAssistant:"),
]
state, free, own = None, [model.resident()], []
for token in tokens:
    logits, state = model.forward(token, state)
    free.append(model.resident())
    own.append(memory.process_memory()["anon"])
print(
    f"touched by a token: {plan['touched_bytes_per_token']:,}; "
    f"resident after one: {free[1]:,}, after all: {free[-1]:,}"
)
print(
    f"anonymous memory grew by {own[-1] - own[0]:,} bytes over all tokens; "
    f"a state has {plan['state_bytes']:,}"
)

# ## Two gauges
#
# *Resident* counts the pages of the file in this process. *Cached* counts the pages in the system's
# page cache, no matter who read them. `MADV_DONTNEED` takes pages out of the process but leaves
# them in the cache. Touching them again costs a page fault, but no read from the disk.

cached = model.cached()
model.file.drop()
dropped, kept = model.resident(), model.cached()
print(f"after MADV_DONTNEED: resident {dropped:,}, cached {kept:,}")

# ## A budget
#
# With `resident_limit`, the engine takes pages out of the process in this way after each step of a
# token. It would not help to drop the pages that were used longest ago. A token reads the file from
# beginning to end, so the next token needs exactly these pages first. Instead, some steps keep
# their bytes for good, as far as there is room. The bytes of all other steps are dropped after use.
# The answer is the same, bit for bit. The price is time.
#
# The next program looks at the memory after each call of the kernels. At these moments the resident
# memory is largest.

limit = max(least_resident(model.steps), plan["file_bytes"] // 2)
small = tinyrwkv.load(path, resident_limit=limit)
held, call = [], small.backend.run


def watched(*arguments):
    call(*arguments)
    held.append(small.resident())


small.backend.run = watched
state, full, same = None, None, []
for token in tokens:
    z, state = small.forward(token, state)
    y, full = model.forward(token, full)
    same.append(np.array_equal(z, y))
print(
    f"limit {limit:,}: at most {max(held):,} resident; "
    f"the same logits after every token: {all(same)}"
)

figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
axes.axhline(plan["file_bytes"] / 1e6, color="grey", lw=0.8)
axes.text(0, plan["file_bytes"] / 1e6, "file", va="bottom", fontsize=8)
axes.plot(np.array(free) / 1e6, "o-", ms=3, label="no limit")
calls = np.arange(1, len(held) + 1) / (len(held) / len(tokens))
axes.plot(
    calls,
    np.array(held) / 1e6,
    "o-",
    ms=2,
    lw=0.8,
    label="with a limit, after each call of the kernels",
)
axes.axhline(limit / 1e6, color="C1", lw=0.8, ls="--")
axes.set(
    xlabel="tokens read",
    ylabel="MB of the file resident",
    ylim=(0, None),
    title="Pages come when they are touched",
)
axes.legend()
plt.show()

# The same figures tell how fast a model can be. Each token reads its weights from memory once. So
# with a bandwidth of $B$ bytes a second,
#
# $$\mathrm{tokens/s} \le \frac{B}{\mathrm{bytes\ touched\ by\ a\ token}}$$
#
# If the file is not in memory yet, $B$ is the bandwidth of the disk. Compression makes a model
# faster because there are fewer bytes to read.
#
# ## The claim

assert free[0] < plan["file_bytes"] / 20
assert plan["touched_bytes_per_token"] * 0.95 < free[1] <= plan["resident_bytes_max"]
assert max(free) <= plan["resident_bytes_max"]
assert own[-1] - own[0] < 4 * plan["state_bytes"] < plan["file_bytes"] / 4
assert dropped < mmap.PAGESIZE and kept >= cached
assert max(held) <= limit and all(same)
