"""Write the operations of a time mix; ``versions.reference`` has the mathematics of them."""

from __future__ import annotations

from ..kernels import abi as op
from ..versions.forms import LIKE_V7, SHIFTED
from .builder import FLOATS, Builder, Finish, Input


def time_mix(builder: Builder, layer: int) -> None:
    """Add x = x + O @ wkv(projections), of LN(x) mixed with the LN(x) of the token before."""
    builder.begin("time_mix", layer)
    TimeMix(builder, layer).write()


class TimeMix:
    """The time mix of one layer.

    Parameters
    ----------
    builder : Builder
        What it is written to.
    layer : int
    """

    def __init__(self, builder: Builder, layer: int) -> None:
        self.builder = builder
        self.layer = layer
        self.arch = builder.config["arch"]
        self.C = builder.C
        self.att = f"blocks.{layer}.att."
        self.heads = {"heads": builder.config["n_head"], "size": builder.config["head_size"]}
        self.att_x = builder.layer_state(layer)
        self.wkv_state = self.att_x + 4 * 2 * self.C  # after att_x and ffn_x

    def write(self) -> None:
        """Write all operations of the time mix."""
        builder = self.builder
        builder.norm(f"blocks.{self.layer}.ln1")
        delta = self.token_shift_v6() if self.arch == "v6" else op.NONE
        builder.shift(self.att + "token_shift", len(SHIFTED[self.arch]), self.att_x, delta)
        if self.arch == "v4":
            self.wkv4()
        elif self.arch in LIKE_V7:
            self.wkv7()
        else:
            self.wkv5()
        builder.sync()
        y = builder.input(self.result(), self.C, shared=True)
        x = builder.shared.floats("x", self.C)
        builder.matmul(self.att + "output.weight", y, x, Finish(mode=op.ADD))
        builder.sync()
        builder.pause()

    def wkv4(self) -> None:
        """Write the projections of v4, and the wkv that reads them."""
        r = self.projection("receptance", op.SIGMOID)
        k = self.projection("key")
        v = self.projection("value")
        self.builder.sync()
        self.builder.second_factors()
        self.builder.emit(
            op.WKV4,
            self.att + "wkv",
            r=r,
            k=k,
            v=v,
            decay=self.vector("time_decay"),
            first=self.vector("time_first"),
            state=self.wkv_state,
            dst=self.result(),
            width=self.C,
        )

    def wkv5(self) -> None:
        """Write the projections of v5 and v6, and the wkv; in v6 the decay is a projection too."""
        r = self.projection("receptance")
        k = self.projection("key")
        v = self.projection("value")
        g = op.NONE
        if "g" in SHIFTED[self.arch]:
            g = self.projection("gate", op.SILU)
        decay = self.vector("time_decay")
        per_token = "w" in SHIFTED[self.arch]
        if per_token:
            decay = self.low_rank("time_decay_w", op.TANH, op.DECAY_V6, bias=decay)
        self.builder.sync()
        self.builder.second_factors(unit=self.heads["size"])
        self.builder.emit(
            op.WKV5,
            self.att + "wkv",
            r=r,
            k=k,
            v=v,
            g=g,
            decay=decay,
            per_token=per_token,
            bonus=self.vector("bonus"),
            ln_weight=self.vector("ln_x.weight"),
            ln_bias=self.vector("ln_x.bias"),
            state=self.wkv_state,
            dst=self.result(),
            **self.heads,
        )

    def wkv7(self) -> None:
        """Write the projections of v7, and the wkv that reads them."""
        r = self.projection("receptance")
        k = self.projection("key")
        # Layer 0 writes its value to v_first, which the other layers read.
        v_first = self.builder.shared.floats("v_first", self.C)
        v = self.projection("value", into="value" if self.layer else "v_first")
        w = self.low_rank("w", op.TANH, op.DECAY_V7, bias=self.vector("w0"))
        a = self.low_rank("a", op.IDENTITY, op.SIGMOID, bias=self.vector("a0"))
        g = self.low_rank("g", op.SIGMOID, op.IDENTITY)
        v_gate = op.NONE
        if self.layer:
            v_gate = self.low_rank("v", op.IDENTITY, op.SIGMOID, bias=self.vector("v0"))
        self.builder.sync()
        self.builder.second_factors(unit=self.heads["size"])
        self.builder.emit(
            op.WKV7,
            self.att + "wkv",
            r=r,
            k=k,
            v=v,
            w=w,
            a=a,
            g=g,
            v_gate=v_gate,
            v_first=v_first,
            k_k=self.vector("k_k"),
            k_a=self.vector("k_a"),
            r_k=self.vector("r_k"),
            ln_weight=self.vector("ln_x.weight"),
            ln_bias=self.vector("ln_x.bias"),
            state=self.wkv_state,
            dst=self.result(),
            **self.heads,
        )

    def token_shift_v6(self) -> int:
        """Write what v6 adds to token_shift for each token; return where it lies.

        ::

            z       = xn + (xn_prev - xn) * time_maa_x
            delta_j = W2_j @ tanh(W1_j @ z)                for j = 0 to 4
        """
        builder = self.builder
        five_ranks = builder.file.tensors[self.att + "time_maa_w1.weight"].shape[0]
        D = five_ranks // 5
        builder.shift(self.att + "time_maa_x", 1, self.att_x)
        low = builder.shared.floats("low mix", five_ranks)
        delta = builder.shared.floats("delta", 5 * self.C)
        z = builder.mixed_input(0)
        builder.matmul(self.att + "time_maa_w1.weight", z, low, Finish(op.TANH))
        builder.sync()
        all_five = builder.input(low, five_ranks, shared=True)
        item_bytes = 4 if all_five.scale == op.NONE else 2  # float32, or int16 if quantised
        for j in range(5):
            x = all_five._replace(src=all_five.src + j * D * item_bytes)
            dst = delta + j * FLOATS * self.C
            rows = (j * self.C, self.C)
            builder.matmul(self.att + "time_maa_w2.weight", x, dst, part=rows)
        builder.sync()
        return delta

    def result(self) -> int:
        """Return where wkv puts its result."""
        return self.builder.shared.floats("y", self.C)

    def vector(self, name: str) -> int:
        """Return where a tensor of this time mix lies in the file."""
        return self.builder.vector(self.att + name)

    def shifted(self, letter: str) -> Input:
        """Prepare the input that token_shift makes for a letter."""
        return self.builder.mixed_input(SHIFTED[self.arch].index(letter))

    def projection(self, name: str, activation: int = op.IDENTITY, into: str = "") -> int:
        """Write activation(W @ x); return where it goes.

        The first letter of the name chooses x.
        """
        dst = self.builder.shared.floats(into or name, self.C)
        self.builder.project(f"{self.att}{name}.weight", self.shifted(name[0]), dst, activation)
        return dst

    def low_rank(self, name: str, inner: int, activation: int, bias: int = op.NONE) -> int:
        """Write activation(bias + W2 @ inner(W1 @ x)); return where it goes.

        The last letter of the name chooses x.
        """
        x = self.shifted(name[-1])
        dst = self.builder.shared.floats(name, self.C)
        first, second = f"{self.att}{name}1.weight", f"{self.att}{name}2.weight"
        self.builder.factors(first, second, x, dst, Finish(inner), Finish(activation, bias))
        return dst
