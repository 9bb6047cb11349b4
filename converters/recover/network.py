"""RWKV-5.2, 6 and 7 in torch, for many windows at once, on the tensors of a BlinkDL checkpoint.

The formulas are those of `tinyrwkv.versions.reference`, which the tests compare with. Here the
coefficients of token shifts and decays are as a checkpoint has them, because these are trained.
Shapes: B windows of T tokens, C channels in H heads of N, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .scan import Tensor, scan, scan_v7

Weights = Mapping[str, Tensor]

ARCHITECTURES = ("v5.2", "v6", "v7")
"""What `Network` computes."""


class State(NamedTuple):
    """What one layer remembers."""

    att_x: Tensor
    """(B, C)"""

    ffn_x: Tensor
    """(B, C)"""

    S: Tensor
    """(B, H, N, N), rows are keys."""


class Network:
    """The forward pass of a version and size; the weights are given for each call.

    Parameters
    ----------
    arch : str
        One of `ARCHITECTURES`.
    n_layer, n_head : int
    ln_x_eps : float

    Attributes
    ----------
    choosers : dict of str to callable
        Maps the input of a channel mix's keys, (B, T, C), to the neurons that count, (B, T, F).
        Its name is what those of the channel mix begin with; without one, all neurons count.
    look : callable or None
        Called with that name, that input, and the gate of the channel mix, (B, T, C) or None.
    """

    def __init__(self, arch: str, n_layer: int, n_head: int, ln_x_eps: float) -> None:
        self.arch = arch
        self.n_layer = n_layer
        self.n_head = n_head
        self.ln_x_eps = ln_x_eps
        self.choosers: dict[str, Callable[[Tensor], Tensor]] = {}
        self.look: Callable[[str, Tensor, Tensor | None], None] | None = None

    def forward(
        self, weights: Weights, tokens: Tensor, states: list[State] | None = None
    ) -> tuple[list[Tensor], list[State]]:
        """Read tokens.

        Parameters
        ----------
        weights : mapping of str to Tensor
            By their names in a checkpoint.
        tokens : Tensor, int64, shape (B, T)
        states : list of State, optional
            From the tokens before; by default there were none.

        Returns
        -------
        streams : list of Tensor, shape (B, T, C)
            The residual stream after each layer; the last one after `ln_out`, as the head takes it.
        states : list of State
        """
        states = self.new_states(weights, len(tokens)) if states is None else states
        x = _layer_norm(weights, "blocks.0.ln0", weights["emb.weight"][tokens])
        streams: list[Tensor] = []
        after: list[State] = []
        v_first = None
        for layer in range(self.n_layer):
            block, state = f"blocks.{layer}.", states[layer]
            xx = _layer_norm(weights, block + "ln1", x)
            out, S, v_first = self._time_mix(weights, f"{block}att.", xx, state, v_first)
            x = x + out
            yy = _layer_norm(weights, block + "ln2", x)
            x = x + self._channel_mix(weights, f"{block}ffn.", yy, state.ffn_x)
            streams.append(x)
            after.append(State(xx[:, -1], yy[:, -1], S))
        streams[-1] = _layer_norm(weights, "ln_out", x)
        return streams, after

    def new_states(self, weights: Weights, count: int) -> list[State]:
        """Return the states of `count` windows before the first token."""
        emb = weights["emb.weight"]
        C = emb.shape[1]
        N = C // self.n_head
        x = emb.new_zeros(count, C)
        return [State(x, x, emb.new_zeros(count, self.n_head, N, N))] * self.n_layer

    def _time_mix(
        self, weights: Weights, att: str, x: Tensor, state: State, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        dx = _before(x, state.att_x) - x
        if self.arch == "v7":
            return self._time_mix_v7(weights, att, x, dx, state.S, v_first)
        if self.arch == "v6":
            xr, xk, xv, xg, log_w = _shift_v6(weights, att, x, dx)
        else:
            mixes = (weights[f"{att}time_mix_{letter}"] for letter in "rkvg")
            xr, xk, xv, xg = (x + dx * (1 - mix) for mix in mixes)
            log_w = -weights[att + "time_decay"].exp().view(1, 1, -1)
        r, k, v = (
            self._heads(_linear(weights, att + name, each))
            for name, each in (("receptance", xr), ("key", xk), ("value", xv))
        )
        u = weights[att + "time_faaaa"].view(self.n_head, -1)
        y, S = scan(r, self._heads(log_w), k, v, u, state.S)
        g = F.silu(_linear(weights, att + "gate", xg))
        return _linear(weights, att + "output", self._group_norm(weights, att, y) * g), S, None

    def _time_mix_v7(
        self,
        weights: Weights,
        att: str,
        x: Tensor,
        dx: Tensor,
        S: Tensor,
        v_first: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        def low(letter: str, each: Tensor) -> Tensor:
            return each @ weights[f"{att}{letter}1"]

        def high(letter: str, each: Tensor) -> Tensor:
            return each @ weights[f"{att}{letter}2"]

        mixes = (weights[f"{att}x_{letter}"] for letter in "rwkvag")
        xr, xw, xk, xv, xa, xg = (x + dx * mix for mix in mixes)
        r = _linear(weights, att + "receptance", xr)
        k = _linear(weights, att + "key", xk)
        v = _linear(weights, att + "value", xv)
        decay = weights[att + "w0"] + high("w", torch.tanh(low("w", xw)))
        log_w = -math.exp(-0.5) * torch.sigmoid(decay)
        a = torch.sigmoid(weights[att + "a0"] + high("a", low("a", xa)))
        g = high("g", torch.sigmoid(low("g", xg)))

        kk = F.normalize(self._heads(k * weights[att + "k_k"]), dim=-1, eps=1e-12)
        k = k * (1 + (a - 1) * weights[att + "k_a"])
        if v_first is None:
            v_first = v
        else:
            share = torch.sigmoid(weights[att + "v0"] + high("v", low("v", xv)))
            v = v + (v_first - v) * share
        r, log_w, k, v, a = (self._heads(each) for each in (r, log_w, k, v, a))
        y, S = scan_v7(r, log_w, k, v, kk, a, S)
        y = self._group_norm(weights, att, y)
        bonus = (r * k * weights[att + "r_k"]).sum(-1, keepdim=True) * v
        return _linear(weights, att + "output", (y + bonus.flatten(2)) * g), S, v_first

    def _channel_mix(self, weights: Weights, ffn: str, x: Tensor, x_prev: Tensor) -> Tensor:
        dx = _before(x, x_prev) - x
        if self.arch == "v7":
            return self._neurons(weights, ffn, x + dx * weights[ffn + "x_k"], None)
        if self.arch == "v6":
            xk, xr = (x + dx * weights[f"{ffn}time_maa_{letter}"] for letter in "kr")
        else:
            xk, xr = (x + dx * (1 - weights[f"{ffn}time_mix_{letter}"]) for letter in "kr")
        r = torch.sigmoid(_linear(weights, ffn + "receptance", xr))
        return r * self._neurons(weights, ffn, xk, r)

    def _neurons(self, weights: Weights, ffn: str, xk: Tensor, gate: Tensor | None) -> Tensor:
        if self.look is not None:
            self.look(ffn, xk, gate)
        k = torch.relu(_linear(weights, ffn + "key", xk)).square()  # (B, T, F)
        if ffn in self.choosers:
            k = k * self.choosers[ffn](xk.detach())
        return _linear(weights, ffn + "value", k)

    def _heads(self, x: Tensor) -> Tensor:
        """Cut (B, T, C) into (B, T, H, N)."""
        return x.unflatten(-1, (self.n_head, -1))

    def _group_norm(self, weights: Weights, att: str, y: Tensor) -> Tensor:
        """Normalise each head by itself: (B, T, H, N) to (B, T, C)."""
        flat = y.flatten(0, 1).flatten(1)  # (B T, C)
        weight, bias = weights[att + "ln_x.weight"], weights[att + "ln_x.bias"]
        return F.group_norm(flat, self.n_head, weight, bias, self.ln_x_eps).view(*y.shape[:2], -1)


def _shift_v6(weights: Weights, att: str, x: Tensor, dx: Tensor) -> list[Tensor]:
    """Return xr, xk, xv, xg and the logarithm of the decay, which depend on the token."""
    z = x + dx * weights[att + "time_maa_x"]
    m = torch.tanh(z @ weights[att + "time_maa_w1"]).unflatten(-1, (5, -1))  # (B, T, 5, D)
    m = torch.einsum("btjd,jdc->jbtc", m, weights[att + "time_maa_w2"])
    shifted = {
        letter: x + dx * (weights[f"{att}time_maa_{letter}"] + m[place])
        for place, letter in enumerate("wkvrg")
    }
    low = torch.tanh(shifted["w"] @ weights[att + "time_decay_w1"])
    decay = weights[att + "time_decay"] + low @ weights[att + "time_decay_w2"]
    return [*(shifted[letter] for letter in "rkvg"), -decay.exp()]


def _before(x: Tensor, first: Tensor) -> Tensor:
    """Return the input of the token before, for each token: (B, T, C)."""
    return torch.cat([first[:, None], x[:, :-1]], 1)


def _layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"])


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[name + ".weight"])
