"""Write the operations of the head: all rows, in one matrix or two, or a preview and few rows."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import abi as op
from ..versions.forms import LIKELY, code_qmax, preview_levels
from .builder import PLAIN, Builder, Finish, Input

HEAD_ROWS = 8192
"""Most rows of the head in one operation; a deadline is checked between operations."""


def head(builder: Builder) -> Input:
    """Add logits = head @ LN(x); return what goes into the head."""
    builder.begin("head")
    C = builder.C
    builder.emit(op.SELECT, "x", src=builder.shared.floats("x", C), width=C)
    builder.norm("ln_out")
    x = builder.input(builder.private.floats("xn", C), C, shared=False)
    if "head.rows.weight" in builder.file:
        Preview(builder, x).write()
    elif LIKELY in builder.file:
        z = builder.shared.floats("head z", builder.config["vocab_size"])  # logits by row
        after = all_rows(builder, LIKELY, x, z, PLAIN)
        all_rows(builder, "head.weight", x, after, PLAIN)
        builder.sync()
        gather(builder, z)
    else:
        all_rows(builder, "head.weight", x, 0, Finish(mode=op.LOGITS))
    return x


def all_rows(builder: Builder, name: str, x: Input, dst: int, finish: Finish) -> int:
    """Add the logits of all rows of a matrix, from `dst` on; return where the next ones go."""
    total, V = builder.file.tensors[name].shape[0], builder.config["vocab_size"]
    for first, rows in head_pieces(total):
        builder.matmul(name, x, dst + 4 * first, finish, part=(first, rows), stride=V)
        builder.pause()
    return dst + 4 * total


def gather(builder: Builder, z: int) -> None:
    """Add the logits in the order of the ids, from those by row at z."""
    V = builder.config["vocab_size"]
    size = builder.file.tensors["head.places"].nbytes // V
    where = {"places": builder.vector("head.places"), "place_bytes": size}
    builder.emit(op.GATHER, "head.places", **where, src=z, rows=V)
    builder.pause()


def head_pieces(total: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each operation of the head."""
    for first in range(0, total, HEAD_ROWS):
        yield first, min(HEAD_ROWS, total - first)


class Preview:
    """A head with a preview.

    Parameters
    ----------
    builder : Builder
        What it is written to.
    x : Input
        What goes into the head.
    """

    def __init__(self, builder: Builder, x: Input) -> None:
        self.builder = builder
        self.x = x
        self.C = builder.C
        self.V = builder.config["vocab_size"]
        self.R = builder.file.tensors["head.basis.weight"].shape[0]
        self.y = builder.shared.floats("head y", self.R)  # projections on the basis
        self.z = builder.shared.floats("head z", self.V)  # a first guess of the logits
        # Scores are int16: two of them take the place of a float.
        self.score = builder.shared.floats("head scores", self.V // 2 + 1)

    def write(self) -> None:
        """Write all operations of the head."""
        builder = self.builder
        bias = builder.vector("head.basis.bias")
        builder.matmul("head.basis.weight", self.x, self.y, Finish(bias=bias))
        builder.pause()
        builder.sync(keep_inputs=True)  # x is needed to the end
        used = 0
        for k, (rows, rank, bits) in enumerate(preview_levels(builder.file)):
            self.level(k, rows, rank, bits, used)
            builder.sync(keep_inputs=True)
            used += rank
        self.scores()
        builder.sync(keep_inputs=True)
        lowest = self.choose()
        for first, rows in head_pieces(self.V):
            self.exact(first, rows, lowest)
        builder.sync()
        gather(builder, self.z)

    def level(self, k: int, rows: int, rank: int, bits: int, used: int) -> None:
        """Write level k: what its codes add to the first guess.

        It uses `rank` projections, after the `used` ones of earlier levels.
        """
        largest = 256 * code_qmax(bits)
        src = self.y + 4 * used
        q = self.builder.input(src, rank, shared=True, stride=self.R, largest=largest)
        self.builder.emit(
            op.LEVEL,
            f"head.codes.{bits}",
            codes=self.vector(f"codes.{bits}"),
            scales=self.vector(f"scale_codes.{bits}"),
            table=self.vector("tables") + 4 * op.SCALES * k,
            rows=rows,
            bytes=rank * bits // 8,
            rank=rank,
            bits=bits,
            sums=self.builder.tables,
            src=q.src,
            src_scale=q.scale,
            dst=self.z,
            dst_stride=self.V,
            add=k > 0,
        )
        self.builder.pause()

    def scores(self) -> None:
        """Write the end of the first guess, and the score of each row."""
        self.builder.emit(
            op.PREVIEW,
            "head.bias_codes",
            src=self.x.floats,
            mean=self.vector("mean"),
            bias=self.vector("bias_codes"),
            spread=self.vector("spread_codes"),
            ranges=self.vector("ranges"),
            dst=self.z,
            scores=self.score,
            rows=self.V,
            cols=self.C,
        )
        self.builder.pause()

    def choose(self) -> int:
        """Write the search for the lowest score of an exact row; return where it goes."""
        lowest = self.builder.quantised.number()
        self.builder.emit(
            op.CHOOSE,
            "head.wanted",
            wanted=self.vector("wanted"),
            scores=self.score,
            rows=self.V,
            dst=lowest,
        )
        return lowest

    def exact(self, first: int, rows: int, lowest: int) -> None:
        """Write the exact logits of those rows of a range whose score is high enough."""
        matrix = self.builder.matrix("head.rows.weight")
        self.builder.emit(
            op.EXACT,
            "head.rows.weight",
            weight=matrix.weight,
            scale=matrix.scale,
            kind=matrix.kind,
            cols=self.C,
            src=self.x.src,
            src_scale=self.x.scale,
            src_sums=self.x.sums,
            first=first,
            rows=rows,
            dst=self.z,
            dst_stride=self.V,
            scores=self.score,
            lowest=lowest,
        )
        self.builder.pause()

    def vector(self, name: str) -> int:
        """Return where a tensor of the head lies in the file."""
        return self.builder.vector(f"head.{name}")
