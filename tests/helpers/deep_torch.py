"""RWKV-7a and RWKV-8 rc00 in torch by the formulas of BlinkDL's demos; the package lacks them.

A head's state is S [value, key], as in these demos; vectors are columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DECAY = -0.6065306597126334
"""-e^(-1/2)"""


def run_deep(raw: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """Read tokens one by one.

    Parameters
    ----------
    raw : mapping of str to Tensor, float32
        By the names of a BlinkDL checkpoint.
    tokens : sequence of int

    Returns
    -------
    dict of str to ndarray
        ``logits`` (T, V), and the last state: ``att_x`` and ``ffn_x`` (L, C), ``wkv``
        (L, H, value, key).
    """
    import torch  # type: ignore[import-not-found]
    from torch.nn.functional import layer_norm  # type: ignore[import-not-found]

    H, N = raw["blocks.0.att.r_k"].shape
    C, L = H * N, sum(name.endswith("ln1.weight") for name in raw)
    weights = {name: tensor.squeeze() for name, tensor in raw.items()}

    def norm(x: Any, name: str) -> Any:
        return layer_norm(x, (C,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    emb = norm(raw["emb.weight"], "blocks.0.ln0")  # (V, C)
    tables = [_table(weights, f"blocks.{i}.ffn.", emb) for i in range(L)]
    state = [(torch.zeros(C), torch.zeros(H, N, N), torch.zeros(C)) for _ in range(L)]
    logits = []
    for token in tokens:
        x, v_first = emb[token], None
        for i in range(L):
            att_x, S, ffn_x = state[i]
            block = {
                name.removeprefix(f"blocks.{i}."): tensor
                for name, tensor in weights.items()
                if name.startswith(f"blocks.{i}.")
            }
            att = norm(x, f"blocks.{i}.ln1")
            out, S, v_first = _time_mix(torch, block, att, att_x, S, v_first)
            x = x + out
            ffn = norm(x, f"blocks.{i}.ln2")
            x = x + _channel_mix(torch, block, ffn, ffn_x, tables[i][token])
            state[i] = att, S, ffn
        logits.append(weights["head.weight"] @ norm(x, "ln_out"))
    att_x, wkv, ffn_x = (torch.stack(part).numpy() for part in zip(*state, strict=True))
    return {"logits": torch.stack(logits).numpy(), "att_x": att_x, "wkv": wkv, "ffn_x": ffn_x}


def _table(weights: Mapping[str, Any], ffn: str, emb: Any) -> Any:
    """Return what each token has in a layer: 32 x 32 numbers in v7a, C in v8 rc00."""
    if f"{ffn}enn.weight" in weights:
        return weights[f"{ffn}enn.weight"]
    return weights[f"{ffn}s_emb.weight"] + emb @ weights[f"{ffn}s_emb_x.weight"].T


def _time_mix(torch: Any, block: Any, x: Any, x_prev: Any, S: Any, v_first: Any) -> Any:
    """Return the output, the state and v_first; the time mix is that of v7."""
    H, N, _ = S.shape
    p = {name.removeprefix("att."): tensor for name, tensor in block.items()}
    xr, xw, xk, xv, xa, xg = (x + (x_prev - x) * p[f"x_{letter}"] for letter in "rwkvag")
    r, k, v = p["receptance.weight"] @ xr, p["key.weight"] @ xk, p["value.weight"] @ xv
    w = torch.exp(DECAY * torch.sigmoid(p["w0"] + torch.tanh(xw @ p["w1"]) @ p["w2"]))
    a = torch.sigmoid(p["a0"] + xa @ p["a1"] @ p["a2"])
    g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    kk = (k * p["k_k"]).view(H, N)
    kk = kk / kk.norm(dim=1, keepdim=True).clamp(min=1e-12)
    k = (k * (1 + (a - 1) * p["k_a"])).view(H, N)
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * torch.sigmoid(p["v0"] + xv @ p["v1"] @ p["v2"])

    heads = zip(r.view(H, N), w.view(H, N), k, v.view(H, N), kk, a.view(H, N), S, strict=True)
    outputs, states = [], []
    for r_h, w_h, k_h, v_h, kk_h, a_h, S_h in heads:
        removed = torch.outer(S_h @ kk_h, kk_h * a_h)
        S_h = S_h * w_h - removed + torch.outer(v_h, k_h)
        outputs.append(S_h @ r_h)
        states.append(S_h)
    y = torch.stack(outputs)  # (H, N)
    y = torch.nn.functional.group_norm(
        y.view(1, H * N), H, p["ln_x.weight"], p["ln_x.bias"], eps=64e-5
    )
    bonus = (r.view(H, N) * k * p["r_k"].view(H, N)).sum(dim=1, keepdim=True) * v.view(H, N)
    out = p["output.weight"] @ ((y.view(-1) + bonus.view(-1)) * g)
    return out, torch.stack(states), v_first


def _channel_mix(torch: Any, block: Any, x: Any, x_prev: Any, own: Any) -> Any:
    """Return the output; `own` are the numbers of the token in this layer."""
    p = {name.removeprefix("ffn."): tensor for name, tensor in block.items()}
    k = torch.relu(p["key.weight"] @ (x + (x_prev - x) * p["x_k"])) ** 2
    if "s1" not in p:
        return (p["value.weight"] @ k) * own
    factor = (x @ p["s1"]) @ own.view(32, 32) @ p["s2"] + p["s0"]
    return p["value.weight"] @ (k * factor)
