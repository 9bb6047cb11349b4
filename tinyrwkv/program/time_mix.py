"""Write the operations of a time mix: for each version the lines of its function in ``reference``."""

from __future__ import annotations

from ..kernels import abi as op
from ..versions.layout import SHIFTED
from .builder import Builder, Finish, Input


class TimeMix(Builder):
    """A `Builder` that knows the time mix of every version."""

    def _time_mix(self, layer: int) -> None:
        """Emit x = x + O @ wkv(projections of LN(x) and of that of the token before)."""
        arch, C, att = self.config["arch"], self.C, f"blocks.{layer}.att."
        heads = (C,) if arch == "v4" else (self.config["n_head"], self.config["head_size"])
        self._norm(f"blocks.{layer}.ln1")
        delta = self._delta_v6(layer) if arch == "v6" else op.NONE
        self._shift(layer, "att", "token_shift", len(SHIFTED[arch]), delta)
        opcode, *inputs = {"v4": self._time_mix_v4, "v7": self._time_mix_v7}.get(
            arch, self._time_mix_v5
        )(layer)
        self._sync()
        self._second_factors(1 if arch == "v4" else self.config["head_size"])
        state, y = 4 * (layer * self.state_stride + 2 * C), self._shared("y", C)
        self._emit(opcode, att + "wkv", *inputs, state, y, *heads)
        self._sync()
        self._matmul(
            att + "output.weight",
            self._input(y, C, shared=True),
            self._shared("x", C),
            Finish(mode=op.ADD),
        )
        self._sync()

    def _time_mix_v4(self, layer: int) -> tuple[int, ...]:
        """Emit the projections; return the operation that uses them and its first fields."""
        r = self._projection(layer, "receptance", op.SIGMOID)
        k, v = self._projection(layer, "key"), self._projection(layer, "value")
        return op.WKV4, r, k, v, *self._vectors(layer, "time_decay", "time_first")

    def _time_mix_v5(self, layer: int) -> tuple[int, ...]:
        """Do it for v5, and for v6, where the decay is a projection too."""
        shifted = SHIFTED[self.config["arch"]]
        r, k, v = (self._projection(layer, name) for name in ("receptance", "key", "value"))
        g = self._projection(layer, "gate", op.SILU) if "g" in shifted else op.NONE
        w, *rest = self._vectors(layer, "time_decay", "bonus", "ln_x.weight", "ln_x.bias")
        if "w" in shifted:
            w = self._low_rank(layer, "time_decay_w", op.TANH, op.DECAY_V6, bias=w)
        return op.WKV5, r, k, v, g, w, "w" in shifted, *rest

    def _delta_v6(self, layer: int) -> int:
        """Emit what v6 adds to token_shift for each token: W2_j @ tanh(W1_j @ z)."""
        C, att = self.C, f"blocks.{layer}.att."
        self._shift(layer, "att", "time_maa_x", 1)
        five_ranks = self.file.tensors[att + "time_maa_w1.weight"].shape[0]
        low, delta = self._shared("low mix", five_ranks), self._shared("delta", 5 * C)
        self._matmul(att + "time_maa_w1.weight", self._mixed(0), low, Finish(op.TANH))
        self._sync()
        x = self._input(low, five_ranks, shared=True)
        for j in range(5):
            part = x._replace(src=x.src + j * (five_ranks // 5) * (2 if x.scale != op.NONE else 4))
            self._matmul(
                att + "time_maa_w2.weight", part, delta + j * op.MAX_TOKENS * 4 * C, part=(j * C, C)
            )
        self._sync()
        return delta

    def _time_mix_v7(self, layer: int) -> tuple[int, ...]:
        """Do it for v7."""
        r, k = self._projection(layer, "receptance"), self._projection(layer, "key")
        v_first = self._shared("v_first", self.C)  # layer 0 leaves its value there for the others
        v = self._projection(layer, "value", into="value" if layer else "v_first")
        w = self._low_rank(layer, "w", op.TANH, op.DECAY_V7, *self._vectors(layer, "w0"))
        a = self._low_rank(layer, "a", op.IDENTITY, op.SIGMOID, *self._vectors(layer, "a0"))
        g = self._low_rank(layer, "g", op.SIGMOID, op.IDENTITY)
        v_gate = (
            self._low_rank(layer, "v", op.IDENTITY, op.SIGMOID, *self._vectors(layer, "v0"))
            if layer
            else op.NONE
        )
        rest = self._vectors(layer, "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias")
        return op.WKV7, r, k, v, w, a, g, v_gate, v_first, *rest

    def _vectors(self, layer: int, *names: str) -> list[int]:
        return [self._vector(f"blocks.{layer}.att.{name}") for name in names]

    def _shifted(self, letter: str) -> Input:
        """Prepare the input of this letter that token_shift makes."""
        return self._mixed(SHIFTED[self.config["arch"]].index(letter))

    def _projection(
        self, layer: int, name: str, activation: int = op.IDENTITY, into: str = ""
    ) -> int:
        """Emit activation(W @ x), x by the first letter of the name; return where it goes."""
        dst = self._shared(into or name, self.C)
        self._project(f"blocks.{layer}.att.{name}.weight", self._shifted(name[0]), dst, activation)
        return dst

    def _low_rank(
        self, layer: int, name: str, inner: int, activation: int, bias: int = op.NONE
    ) -> int:
        """Emit activation(bias + W2 @ inner(W1 @ x)), x by the last letter of the name; return where it goes."""
        W, x, dst = (
            f"blocks.{layer}.att.{name}",
            self._shifted(name[-1]),
            self._shared(name, self.C),
        )
        self._factors(
            f"{W}1.weight", f"{W}2.weight", x, dst, Finish(inner), Finish(activation, bias)
        )
        return dst
