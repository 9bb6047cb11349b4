"""Write the operations of the head: all rows, or a preview of all and a few exact rows."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import abi as op
from ..versions.forms import code_qmax, preview_levels
from .builder import Builder, Finish, Input

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
    else:
        for first, rows in head_pieces(builder.config["vocab_size"]):
            logits = Finish(mode=op.LOGITS)
            builder.matmul("head.weight", x, 4 * first, logits, part=(first, rows))
            builder.pause()
    return x


def head_pieces(V: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each operation of the head."""
    for first in range(0, V, HEAD_ROWS):
        yield first, min(HEAD_ROWS, V - first)


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
        self.gather()

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

    def gather(self) -> None:
        """Write the logits in the order of the ids."""
        size = self.builder.file.tensors["head.places"].nbytes // self.V
        where = {"places": self.vector("places"), "place_bytes": size}
        self.builder.emit(op.GATHER, "head.places", **where, src=self.z, rows=self.V)
        self.builder.pause()

    def vector(self, name: str) -> int:
        """Return where a tensor of the head lies in the file."""
        return self.builder.vector(f"head.{name}")
