"""The hierarchical head of RWKV-Lite: clusters of rows, a small head that weighs them, exact rows in the likely ones.

The cluster head gives every cluster a probability. The likeliest clusters are read and their logits
are exact; every other cluster keeps exactly its probability, spread over its tokens by a stored
prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.techniques.preview_head import (
    matrix,
    mean_probabilities,
    softmax,
    softmax_blocks,
)
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

Array = np.ndarray
Parts = Mapping[str, Array]

_ROWS = 8192  # rows of the head at a time


def cluster_head(
    weight: Array,
    states: Array,
    clusters: int,
    *,
    p_min: float = 0.985,
    k_min: int = 3,
    k_max: int | None = None,
    seed: int = 0,
    steps: int = 400,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Group the rows of a head and train the head of the groups.

    Parameters
    ----------
    weight : ndarray, float32, shape (V, C)
    states : ndarray, float32, shape (n, C)
        Inputs of the head after calibration text.
    clusters : int
        How many; each has at most 3 V / clusters rows.
    p_min : float
        Read the likeliest clusters until they hold this probability,
    k_min, k_max : int
        but at least and at most so many; half of all where `k_max` is left out.
    seed : int
        Of the first centres and of the order of training.
    steps : int
        Of training.

    Returns
    -------
    parts : dict of str to ndarray
        ``rows`` int8 (V, C) and ``rows.scale`` float32 (V,), cluster by cluster; ``ids`` int32
        (V,), the token of each; ``starts`` int32 (K + 1,), the first row of each cluster and V;
        ``clusters`` int8 (K, C), ``clusters.scale`` and ``clusters.bias`` float32 (K,); ``prior``
        uint8 (V,), its ``prior.table`` float32 (256,) and ``prior.norm`` float32 (K,); ``p_min``
        float32 (1,); ``limits`` int32 (2,), k_min and k_max.
    report : dict
        ``divergence`` of the cluster head in nats, ``clusters`` and ``rows`` read on average over
        the states.

    Raises
    ------
    ArgumentError
        A setting or a shape is out of range.
    """
    weight, states = matrix("weight", weight), matrix("states", states)
    V, K = len(weight), clusters
    k_max = max(1, K // 2) if k_max is None else k_max
    if not 2 <= K <= V or not 0 <= p_min <= 1 or not 1 <= k_min <= k_max <= K:
        found = f"clusters {K}, p_min {p_min}, k_min {k_min}, k_max {k_max}"
        expected = f"2 to {V} clusters, a probability, 1 <= k_min <= k_max <= clusters"
        raise ArgumentError("cluster_head", "settings", found, expected, "choose other settings")
    random = np.random.default_rng(seed)
    p = mean_probabilities(weight, states)
    centre, white = whiten(states)
    importance = np.sqrt(p + 1 / (16 * V))
    features = (weight - (p @ weight).astype(np.float32)) @ np.linalg.inv(white).T.astype(
        np.float32
    )
    group = cluster_rows(features, importance, K, -(-3 * V // K), random)

    order = np.lexsort((-p, group))
    starts = np.searchsorted(group[order], np.arange(K + 1))
    W = np.ascontiguousarray(weight[order])
    mass = np.concatenate(
        [np.add.reduceat(q, starts[:-1], axis=1) for _, q in softmax_blocks(W, states)]
    )  # (n, K)
    # The likely rows of a cluster give the direction to begin with, right far beyond what training
    # sees of it.
    likely = (p[order] + 1e-9)[:, None]
    begin = np.add.reduceat(W * likely, starts[:-1]) / np.add.reduceat(
        likely, starts[:-1]
    )  # (K, C)
    top, bias = train_clusters(
        mass, (states - centre) @ white.T, begin @ np.linalg.inv(white), random, steps
    )
    top = (top @ white).astype(np.float32)
    q_top, top_scale = quantize_rows(top)
    q, scale = quantize_rows(W)
    parts = {
        "rows": q, "rows.scale": scale, "ids": order.astype(np.int32), "starts": starts.astype(np.int32),
        "clusters": q_top, "clusters.scale": top_scale, "clusters.bias": (bias - top @ centre).astype(np.float32),
        "p_min": np.array([p_min], np.float32), "limits": np.array([k_min, k_max], np.int32),
    }  # fmt: skip
    share = cluster_probabilities(parts, states)
    chosen = choose_clusters(parts, share)
    # The prior counts only where it is used: after texts that leave the cluster unread.
    missed = np.full(V, 1e-9 * len(states))
    for i, q_block in softmax_blocks(W, states):
        missed += np.where(
            np.repeat(chosen[i : i + len(q_block)], np.diff(starts), axis=1), 0, q_block
        ).sum(axis=0)
    log_prior = np.log(missed / np.repeat(np.add.reduceat(missed, starts[:-1]), np.diff(starts)))
    log_prior = np.maximum(log_prior, -25)
    table = np.linspace(log_prior.min(), min(0.0, log_prior.max()) + 1e-6, 256).astype(np.float32)
    parts["prior"] = (
        np.rint((log_prior - table[0]) / (table[-1] - table[0]) * 255).clip(0, 255).astype(np.uint8)
    )
    parts["prior.table"] = table
    parts["prior.norm"] = np.log(
        np.add.reduceat(np.exp(table[parts["prior"]]), starts[:-1])
    ).astype(np.float32)
    mass = np.maximum(mass, 1e-12)
    divergence = float(
        (mass * (np.log(mass) - np.log(np.maximum(share, 1e-12)))).sum(axis=1).mean()
    )
    read = {
        "clusters": float(chosen.sum(axis=1).mean()),
        "rows": float((chosen @ np.diff(starts)).mean()),
    }
    return parts, {"divergence": divergence, **read}


def cluster_logits(parts: Parts, x: Array) -> tuple[Array, Array]:
    """Return the logits of the hierarchical head and which clusters are exact.

    ::

        z_t = w_t . x                                                            of a cluster that is read
        z_t = log(sum of exp z read) + log p_j - log(sum of p read) + log p(t | j)      of another cluster j

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `cluster_head`.
    x : ndarray, float32, shape (n, C)

    Returns
    -------
    logits : ndarray, float32, shape (n, V)
        By token.
    chosen : ndarray, bool, shape (n, K)
    """
    share = cluster_probabilities(parts, x)
    chosen = choose_clusters(parts, share)
    sizes = np.diff(parts["starts"])
    group = np.repeat(np.arange(len(sizes)), sizes)
    prior = parts["prior.table"][parts["prior"]] - parts["prior.norm"][group]
    logits = np.empty((len(x), len(group)), np.float32)
    for t in range(len(x)):
        read = chosen[t, group]
        exact = (parts["rows"][read] @ x[t]) * parts["rows.scale"][read]
        z = np.empty(len(group), np.float32)
        z[read] = exact
        top = exact.max()
        known = (
            top
            + np.log(np.exp(exact - top).sum(dtype=np.float64))
            - np.log(share[t, chosen[t]].sum())
        )
        with np.errstate(divide="ignore"):
            z[~read] = known + np.log(share[t])[group[~read]] + prior[~read]
        logits[t, parts["ids"]] = z
    return logits, chosen


def cluster_probabilities(parts: Parts, x: Array) -> Array:
    """Return the probability of every cluster, float64, shape (n, K)."""
    z = x @ dequantize_rows(parts["clusters"], parts["clusters.scale"]).T + parts["clusters.bias"]
    return softmax(z.astype(np.float64))


def choose_clusters(parts: Parts, share: Array) -> Array:
    """Return which clusters to read, bool, shape (n, K): the likeliest until they hold p_min, within the limits."""
    order = np.argsort(-share, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(share, order, axis=1), axis=1)
    before = np.concatenate(
        [np.zeros((len(share), 1)), before[:, :-1]], axis=1
    )  # held by the likelier ones
    take = before < parts["p_min"][0]
    k_min, k_max = parts["limits"]
    take[:, :k_min], take[:, k_max:] = True, False
    chosen = np.zeros_like(take)
    np.put_along_axis(chosen, order, take, axis=1)
    return chosen


def whiten(states: Array) -> tuple[Array, Array]:
    """Return the mean (C,) and a matrix (C, C) that makes states white: ``(x - mean) @ white.T`` has covariance 1."""
    values, vectors = np.linalg.eigh(np.cov(states, rowvar=False, dtype=np.float64, ddof=0))
    root = np.sqrt(np.maximum(values, max(values[-1], 1e-30) * 1e-7))
    return states.mean(axis=0, dtype=np.float64), vectors / root @ vectors.T


def cluster_rows(
    features: Array, importance: Array, K: int, largest: int, random: np.random.Generator
) -> Array:
    """Return the cluster of every row by k-means, int64, shape (V,); none is empty or has more than `largest` rows."""
    V = len(features)
    centres = features[random.choice(V, K, replace=False, p=importance / importance.sum())]
    for _ in range(10):
        nearest = [
            _distances(features[i : i + _ROWS], centres).argmin(axis=1) for i in range(0, V, _ROWS)
        ]
        group = np.concatenate(nearest)
        weight = np.bincount(group, importance, K)
        for j in range(features.shape[1]):
            total = np.bincount(group, importance * features[:, j], K)
            centres[:, j] = np.where(weight > 0, total / np.maximum(weight, 1e-30), centres[:, j])
    group = np.full(V, -1)
    # Each cluster first gets the row nearest to it; then rows go to the nearest cluster with room,
    # close ones first.
    for k in range(K):
        free = np.flatnonzero(group < 0)
        group[free[_distances(features[free], centres[k : k + 1])[:, 0].argmin()]] = k
    todo = np.flatnonzero(group < 0)
    while len(todo):
        room = largest - np.bincount(group[group >= 0], minlength=K)
        open_ = np.flatnonzero(room > 0)
        distance, choice = np.empty(len(todo)), np.empty(len(todo), np.int64)
        for i in range(0, len(todo), _ROWS):
            d = _distances(features[todo[i : i + _ROWS]], centres[open_])
            nearest = d.argmin(axis=1)
            choice[i : i + _ROWS], distance[i : i + _ROWS] = (
                open_[nearest],
                d[np.arange(len(d)), nearest],
            )
        order = np.lexsort((distance, choice))
        place = np.arange(len(order)) - np.searchsorted(
            choice[order], choice[order]
        )  # among those of its cluster
        fits = place < room[choice[order]]
        group[todo[order[fits]]] = choice[order[fits]]
        todo = todo[order[~fits]]
    return group


def _distances(features: Array, centres: Array) -> Array:
    """Return squared distances less the squared length of each feature, (rows, K)."""
    d: Array = np.square(centres).sum(axis=1) - 2 * (features @ centres.T)
    return d


def train_clusters(
    mass: Array, x: Array, begin: Array, random: np.random.Generator, steps: int
) -> tuple[Array, Array]:
    """Fit ``softmax(H x + b)`` to the masses (n, K) of clusters by the least KL divergence, with Adam.

    x, float (n, C), is white; H begins as `begin` (K, C). Returns H, float64, (K, C) and b (K,).
    """
    n, C = x.shape
    origin = np.concatenate([begin, np.zeros((len(begin), 1))], axis=1).astype(
        np.float32
    )  # (K, C + 1)
    inputs = np.concatenate([x, np.ones((n, 1))], axis=1).astype(np.float32)  # (n, C + 1)
    # Biases for the right masses on average, before any direction is changed.
    target = np.maximum(mass.mean(axis=0), 1e-12)
    for _ in range(20):
        origin[:, C] += np.log(
            target / np.maximum(softmax(inputs[:4096] @ origin.T).mean(axis=0), 1e-12)
        )
    theta = origin.copy()
    first, second, batch = np.zeros_like(theta), np.zeros_like(theta), min(1024, n)
    for step in range(1, steps + 1):
        chosen = random.choice(n, batch, replace=False)
        gradient = (softmax(inputs[chosen] @ theta.T) - mass[chosen]).T @ inputs[chosen] / batch
        gradient += 1e-5 * (theta - origin)
        first += 0.1 * (gradient - first)
        second += 0.01 * (np.square(gradient) - second)
        rate = 0.03 * (1 - (step - 1) / steps)
        theta -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return theta[:, :C].astype(np.float64), theta[:, C].astype(np.float64)
