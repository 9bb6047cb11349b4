"""The hierarchical head of RWKV-Lite: clusters of rows, of which only the likely ones are read.

A small cluster head gives every cluster a probability. The likeliest clusters are read, and their
logits are exact. Every other cluster keeps exactly its probability, spread over its tokens by a
stored prior. Letters here: V tokens, C channels, K clusters, n vectors x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.techniques.preview_head import matrix, mean_probabilities, softmax, softmax_blocks
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

Array = np.ndarray
HeadParts = Mapping[str, Array]

_ROWS = 8192
"""Rows of the head at a time."""

_ROUNDS = 10
"""Of k-means."""

_BATCH = 1024
"""Vectors in a step of training."""

_LEAST_LOG_PRIOR = -25


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
        Read the likeliest clusters until they hold this probability.
    k_min, k_max : int
        Clusters to read, at least and at most; `k_max` is half of all by default.
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
    unwhite = np.linalg.inv(white)
    importance = np.sqrt(p + 1 / (16 * V))
    features = (weight - (p @ weight).astype(np.float32)) @ unwhite.T.astype(np.float32)
    group = cluster_rows(features, importance, K, -(-3 * V // K), random)

    order = np.lexsort((-p, group))  # by cluster, the probable rows first
    starts = np.searchsorted(group[order], np.arange(K + 1))
    W = np.ascontiguousarray(weight[order])
    mass = _cluster_masses(W, states, starts)
    # Training begins with the mean of a cluster's likely rows: far from the inputs that training
    # sees, this direction stays right.
    begin = _weighted_means(W, p[order] + 1e-9, starts)  # (K, C)
    x = (states - centre) @ white.T
    top, bias = train_clusters(mass, x, begin @ unwhite, random, steps)
    top = (top @ white).astype(np.float32)

    q_top, top_scale = quantize_rows(top)
    q, scale = quantize_rows(W)
    parts = {
        "rows": q,
        "rows.scale": scale,
        "ids": order.astype(np.int32),
        "starts": starts.astype(np.int32),
        "clusters": q_top,
        "clusters.scale": top_scale,
        "clusters.bias": (bias - top @ centre).astype(np.float32),
        "p_min": np.array([p_min], np.float32),
        "limits": np.array([k_min, k_max], np.int32),
    }
    share = cluster_probabilities(parts, states)
    chosen = choose_clusters(parts, share)
    parts |= _fit_prior(W, states, chosen, starts)
    report = {
        "divergence": _divergence(mass, share),
        "clusters": float(chosen.sum(axis=1).mean()),
        "rows": float((chosen @ np.diff(starts)).mean()),
    }
    return parts, report


def _cluster_masses(W: Array, states: Array, starts: Array) -> Array:
    """Return the probability of every cluster by the full head, (n, K)."""
    masses = [np.add.reduceat(p, starts[:-1], axis=1) for _, p in softmax_blocks(W, states)]
    return np.concatenate(masses)


def _weighted_means(W: Array, weights: Array, starts: Array) -> Array:
    column = weights[:, None]
    return np.add.reduceat(W * column, starts[:-1]) / np.add.reduceat(column, starts[:-1])


def _fit_prior(W: Array, states: Array, chosen: Array, starts: Array) -> dict[str, Array]:
    """Return how probable each token is within its cluster, rounded to a table of 256 logarithms.

    The prior counts only where it is used: after texts that leave the cluster unread.
    """
    sizes = np.diff(starts)
    missed = np.full(len(W), 1e-9 * len(states))
    for i, p in softmax_blocks(W, states):
        read = np.repeat(chosen[i : i + len(p)], sizes, axis=1)
        missed += np.where(read, 0, p).sum(axis=0)
    log_prior = np.log(missed / np.repeat(np.add.reduceat(missed, starts[:-1]), sizes))
    log_prior = np.maximum(log_prior, _LEAST_LOG_PRIOR)
    table = np.linspace(log_prior.min(), min(0.0, log_prior.max()) + 1e-6, 256).astype(np.float32)
    place = (log_prior - table[0]) / (table[-1] - table[0]) * 255
    codes = np.rint(place).clip(0, 255).astype(np.uint8)
    norm = np.log(np.add.reduceat(np.exp(table[codes]), starts[:-1])).astype(np.float32)
    return {"prior": codes, "prior.table": table, "prior.norm": norm}


def _divergence(mass: Array, share: Array) -> float:
    """Return the mean of KL(mass || share), in nats."""
    mass = np.maximum(mass, 1e-12)
    logs = np.log(mass) - np.log(np.maximum(share, 1e-12))
    return float((mass * logs).sum(axis=1).mean())


def cluster_logits(parts: HeadParts, x: Array) -> tuple[Array, Array]:
    """Return the logits of the hierarchical head and which clusters are exact.

    ::

        Q = sum of exp z over the rows read,  P = sum of p over the clusters read

        z_t = w_t . x                              of a cluster that is read
        z_t = log Q - log P + log p_j + log p(t | j)        of another cluster j

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
        top = exact.max()
        log_Q = top + np.log(np.exp(exact - top).sum(dtype=np.float64))
        log_P = np.log(share[t, chosen[t]].sum())
        z = np.empty(len(group), np.float32)
        z[read] = exact
        with np.errstate(divide="ignore"):
            z[~read] = log_Q - log_P + np.log(share[t])[group[~read]] + prior[~read]
        logits[t, parts["ids"]] = z
    return logits, chosen


def cluster_probabilities(parts: HeadParts, x: Array) -> Array:
    """Return the probability of every cluster, float64, shape (n, K)."""
    z = x @ dequantize_rows(parts["clusters"], parts["clusters.scale"]).T + parts["clusters.bias"]
    return softmax(z.astype(np.float64))


def choose_clusters(parts: HeadParts, share: Array) -> Array:
    """Return which clusters to read: the likeliest until they hold p_min, within the limits.

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `cluster_head`.
    share : ndarray, float64, shape (n, K)
        The probabilities of the clusters.

    Returns
    -------
    ndarray, bool, shape (n, K)
    """
    order = np.argsort(-share, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(share, order, axis=1), axis=1)
    held_by_likelier = np.concatenate([np.zeros((len(share), 1)), total[:, :-1]], axis=1)
    take = held_by_likelier < parts["p_min"][0]
    k_min, k_max = parts["limits"]
    take[:, :k_min] = True
    take[:, k_max:] = False
    chosen = np.zeros_like(take)
    np.put_along_axis(chosen, order, take, axis=1)
    return chosen


def whiten(states: Array) -> tuple[Array, Array]:
    """Return the mean (C,) of states, and a matrix (C, C) that makes them white.

    The covariance of ``(x - mean) @ white.T`` is 1.
    """
    values, vectors = np.linalg.eigh(np.cov(states, rowvar=False, dtype=np.float64, ddof=0))
    root = np.sqrt(np.maximum(values, max(values[-1], 1e-30) * 1e-7))
    return states.mean(axis=0, dtype=np.float64), vectors / root @ vectors.T


def cluster_rows(
    features: Array, importance: Array, K: int, largest: int, random: np.random.Generator
) -> Array:
    """Return the cluster of every row by k-means.

    Parameters
    ----------
    features : ndarray, float32, shape (V, C)
    importance : ndarray, shape (V,)
        The weight of each row in the mean of its cluster.
    K : int
    largest : int
        Rows of a cluster, at most.
    random : Generator

    Returns
    -------
    ndarray, int64, shape (V,)
        No cluster is empty.
    """
    V = len(features)
    centres = features[random.choice(V, K, replace=False, p=importance / importance.sum())]
    for _ in range(_ROUNDS):
        nearest = [
            _distances(features[i : i + _ROWS], centres).argmin(axis=1) for i in range(0, V, _ROWS)
        ]
        group = np.concatenate(nearest)
        weight = np.bincount(group, importance, K)
        for j in range(features.shape[1]):
            total = np.bincount(group, importance * features[:, j], K)
            centres[:, j] = np.where(weight > 0, total / np.maximum(weight, 1e-30), centres[:, j])
    return _fill_clusters(features, centres, largest)


def _fill_clusters(features: Array, centres: Array, largest: int) -> Array:
    """Return the cluster of every row: the nearest one with room, close rows first."""
    K = len(centres)
    group = np.full(len(features), -1)
    for k in range(K):  # each cluster has at least the row nearest to it
        free = np.flatnonzero(group < 0)
        group[free[_distances(features[free], centres[k : k + 1])[:, 0].argmin()]] = k
    rest = np.flatnonzero(group < 0)
    while len(rest):
        room = largest - np.bincount(group[group >= 0], minlength=K)
        choice, distance = _nearest_with_room(features[rest], centres, np.flatnonzero(room > 0))
        order = np.lexsort((distance, choice))
        sorted_choice = choice[order]
        place_in_cluster = np.arange(len(order)) - np.searchsorted(sorted_choice, sorted_choice)
        fits = place_in_cluster < room[sorted_choice]
        group[rest[order[fits]]] = sorted_choice[fits]
        rest = rest[order[~fits]]
    return group


def _nearest_with_room(features: Array, centres: Array, with_room: Array) -> tuple[Array, Array]:
    """Return for each row the nearest of the open clusters, and its distance."""
    choice = np.empty(len(features), np.int64)
    distance = np.empty(len(features))
    for i in range(0, len(features), _ROWS):
        d = _distances(features[i : i + _ROWS], centres[with_room])
        nearest = d.argmin(axis=1)
        choice[i : i + _ROWS] = with_room[nearest]
        distance[i : i + _ROWS] = d[np.arange(len(d)), nearest]
    return choice, distance


def _distances(features: Array, centres: Array) -> Array:
    """Return squared distances less the squared length of each feature, (rows, K)."""
    d: Array = np.square(centres).sum(axis=1) - 2 * (features @ centres.T)
    return d


def train_clusters(
    mass: Array, x: Array, begin: Array, random: np.random.Generator, steps: int
) -> tuple[Array, Array]:
    """Fit ``softmax(H x + b)`` to the masses of clusters by the least KL divergence, with Adam.

    Parameters
    ----------
    mass : ndarray, shape (n, K)
    x : ndarray, float, shape (n, C)
        White inputs.
    begin : ndarray, shape (K, C)
        The first H.
    random : Generator
    steps : int

    Returns
    -------
    H : ndarray, float64, shape (K, C)
    b : ndarray, float64, shape (K,)
    """
    n, C = x.shape
    inputs = np.concatenate([x, np.ones((n, 1))], axis=1).astype(np.float32)  # (n, C + 1)
    zeros = np.zeros((len(begin), 1))
    origin = np.concatenate([begin, zeros], axis=1).astype(np.float32)  # H and b, (K, C + 1)
    # Biases for the right masses on average, before any direction is changed.
    target = np.maximum(mass.mean(axis=0), 1e-12)
    for _ in range(20):
        found = softmax(inputs[:4096] @ origin.T).mean(axis=0)
        origin[:, C] += np.log(target / np.maximum(found, 1e-12))
    theta = origin.copy()
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    batch = min(_BATCH, n)
    for step in range(1, steps + 1):
        chosen = random.choice(n, batch, replace=False)
        gradient = (softmax(inputs[chosen] @ theta.T) - mass[chosen]).T @ inputs[chosen] / batch
        gradient += 1e-5 * (theta - origin)
        first += 0.1 * (gradient - first)
        second += 0.01 * (np.square(gradient) - second)
        rate = 0.03 * (1 - (step - 1) / steps)
        theta -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return theta[:, :C].astype(np.float64), theta[:, C].astype(np.float64)
