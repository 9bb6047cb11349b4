"""The head by a preview, and the hierarchical head of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques import preview_head
from converters.techniques.preview_codes import Level, basis_of
from tests.helpers.lessons import head_clusters
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.versions import reference

V, C, N = 600, 24, 700


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a head with probable tokens and few strong directions, and states with a mean."""
    random = np.random.default_rng(seed)
    strength = 0.8 ** np.arange(C)
    weight = random.standard_normal((V, C)) * strength * 2
    states = random.standard_normal((N, C)) + random.standard_normal(C) * 0.5
    weight[:, 0] += np.linspace(0, -6, V)[random.permutation(V)]
    states[:, 0] += 1
    return weight.astype(np.float32), states.astype(np.float32)


def dense(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    q, scale = quantize_rows(weight)
    return x @ dequantize_rows(q, scale).T


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def preview(parts: Any, x: np.ndarray) -> np.ndarray:
    return reference.preview(preview_head.weights(parts), x)


@pytest.fixture(scope="module")
def fitted() -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray, np.ndarray]:
    weight, states = made()
    parts, report = preview_head.fit_preview(
        weight, states, levels=((V, 8, 4), (300, 16, 2)), rows=40
    )
    return parts, report, weight, states


@pytest.fixture(scope="module")
def clustered() -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray, np.ndarray]:
    weight, states = made(1)
    parts, report = head_clusters.cluster_head(weight, states, 20, p_min=0.9, k_max=12, steps=150)
    return parts, report, weight, states


def ids_of(parts: Any) -> np.ndarray:
    """Return the token of each row."""
    return np.argsort(parts["places"])


def test_all_rows_exact_is_the_dense_head(fitted: Any) -> None:
    parts, _, weight, states = fitted
    logits, rows = preview_head.preview_logits(
        parts | {"wanted": np.array([V], np.int32)}, states[:50]
    )
    assert rows.all()
    np.testing.assert_allclose(logits, dense(weight, states[:50]), rtol=1e-5, atol=1e-5)


def test_inputs_may_go_where_those_of_the_calibration_text_hardly_go() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((1024, 64)).astype(np.float32) / 4
    states = random.standard_normal((2000, 64)).astype(np.float32)
    states[:, 32:] *= 0.1
    parts, _ = preview_head.fit_preview(weight, states, rows=128)

    others = random.standard_normal((200, 64)).astype(np.float32)
    logits, _ = preview_head.preview_logits(parts, others)
    right = log_softmax(dense(weight, others))
    divergence = (np.exp(right) * (right - log_softmax(logits))).sum(axis=1).mean()
    assert divergence < 0.4  # 0.8 where the preview believes what the calibration text showed


def test_read_rows_are_exact_and_the_others_keep_the_preview(fitted: Any) -> None:
    parts, _, weight, states = fitted
    logits, rows = preview_head.preview_logits(parts, states[:50])
    assert 0 < rows.sum() < rows.size
    by_row = logits[:, ids_of(parts)]
    exact = dense(weight, states[:50])[:, ids_of(parts)]
    np.testing.assert_allclose(by_row[rows], exact[rows], rtol=1e-5, atol=1e-5)
    assert np.array_equal(by_row[~rows], preview(parts, states[:50])[~rows])


def test_full_rank_in_four_bits_is_near_the_dense_head() -> None:
    weight, states = made(2)
    parts, report = preview_head.fit_preview(weight, states, levels=((V, C, 4),), rows=0)
    logits, rows = preview_head.preview_logits(parts, states)
    assert not rows.any()
    error = logits - states @ weight.T
    assert np.sqrt(np.square(error).mean()) < 0.4
    assert report["error"] < 0.4


def test_the_report_tells_the_error_that_is_measured(fitted: Any) -> None:
    parts, _, weight, states = fitted
    z, exact = preview(parts, states), (states @ weight.T)[:, ids_of(parts)]
    variance = np.exp(reference.even(parts["ranges"][1], parts["spread_codes"]))
    # The preview adds half the variance to every logit, which keeps the mean of exp.
    residual = exact - (z - variance / 2)
    step = parts["ranges"][0, 1] / 2 + parts["ranges"][1, 1]
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=step + 0.05)
    np.testing.assert_allclose(residual.var(axis=0), variance, rtol=0.25, atol=0.02)


@pytest.mark.parametrize("rank", [8, 16])
def test_the_mean_of_the_least_likely_rows_has_equal_coordinates(rank: int) -> None:
    weight, states = made(3)
    W = weight - weight[:100].mean(axis=0)
    G = np.cov(states, rowvar=False)
    values, vectors = np.linalg.eigh(G)
    S = vectors * np.sqrt(values) @ vectors.T
    levels = (Level(V, rank, 4), Level(300, 8, 2))
    equal = np.full(V, 1 / V)
    bases = [basis_of(W, equal, G, levels, seed).astype(np.float64) @ S for seed in range(2)]
    for basis in bases:
        np.testing.assert_allclose(basis @ basis.T, np.eye(rank + 8), atol=1e-5)
        coordinates = basis @ S @ W[300:].mean(axis=0)
        np.testing.assert_allclose(coordinates[:rank], coordinates[:rank].mean(), rtol=1e-3)
    assert np.abs(bases[0] - bases[1]).max() > 0.1


def test_the_basis_of_rows_whose_mean_is_zero() -> None:
    weight, states = made(3)
    W, G = np.concatenate([weight, -weight]), np.cov(states, rowvar=False)
    basis = basis_of(W, np.full(2 * V, 0.5 / V), G, [Level(2 * V, 8, 4)], 0).astype(np.float64)
    np.testing.assert_allclose(basis @ G @ basis.T, np.eye(8), atol=1e-5)


def test_rows_that_are_nearly_the_same_are_rounded_well() -> None:
    """Tokens that training has hardly seen: an error that they share is wrong for all at once."""
    weight, states = made(3)
    common = np.random.default_rng(4).standard_normal(C).astype(np.float32)
    weight[V // 2 :] = 3 * common + weight[V // 2 :] / 100
    weight[V // 2 :, 0] -= 8
    shared = []
    for seed in range(40):
        parts, _ = preview_head.fit_preview(weight, states, levels=((V, 16, 4),), rows=0, seed=seed)
        z, _ = preview_head.preview_logits(parts, states)
        error = (states @ weight.T - z)[:, V // 2 :]
        shared.append(np.square(error.mean(axis=1)).mean())
    assert np.mean(shared) < 0.37  # 0.27; 0.50 where the rotation is by chance alone


def test_preview_helps_and_more_rows_help_more(fitted: Any) -> None:
    parts, _, weight, states = fitted
    truth = log_softmax(states @ weight.T)
    losses = []
    for rows in (0, 10, 40, 200):
        few = parts | {"wanted": np.array([rows], np.int32)}
        losses.append(
            (np.exp(truth) * (truth - log_softmax(preview_head.preview_logits(few, states)[0])))
            .sum(axis=1)
            .mean()
        )
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < 0.5
    assert losses[2] < losses[0] / 4


def test_rows_read_are_those_of_the_highest_scores(fitted: Any) -> None:
    parts, _, _, states = fitted
    rows = preview_head.preview_logits(parts, states)[1]
    assert 30 < rows.sum(axis=1).mean() <= 40  # equal scores are read together or not at all
    assert rows.sum(axis=1).max() <= 40
    scores = preview(parts, states) + reference.even(parts["ranges"][1], parts["spread_codes"])
    lowest, highest = (
        np.where(rows, scores, np.inf).min(axis=1),
        np.where(rows, -np.inf, scores).max(axis=1),
    )
    assert (highest <= lowest + 1 / 16).all()


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(-2, 45),
    st.integers(1, 30),
    st.integers(0, 999),
)
def test_the_lowest_score_is_reached_by_no_more_than_wanted(
    n: int, size: int, wanted: int, width: int, seed: int
):
    scores = np.random.default_rng(seed).integers(-width, width, (n, size))
    lowest = reference.lowest_score(scores, wanted)
    reach = (scores >= lowest).sum(axis=1)
    assert (reach <= max(wanted, 0)).all()
    assert wanted < size or (reach == size).all()
    if 0 <= wanted < size:
        assert ((scores >= lowest - 1).sum(axis=1) > wanted).all()


def test_every_token_has_a_place_and_likely_ones_come_first(fitted: Any) -> None:
    parts, _, weight, states = fitted
    assert np.array_equal(np.sort(parts["places"]), np.arange(V))
    p = preview_head.mean_probabilities(weight, states)
    assert (np.diff(p[ids_of(parts)]) <= 0).all()
    q, scale = quantize_rows(weight)
    assert np.array_equal(parts["rows.weight"], q[ids_of(parts)])
    assert np.array_equal(parts["rows.weight.scale"], scale[ids_of(parts)])


def test_one_by_one_is_together(fitted: Any) -> None:
    parts, _, _, states = fitted
    together, rows = preview_head.preview_logits(parts, states[:9])
    for t in range(9):
        alone, row = preview_head.preview_logits(parts, states[t : t + 1])
        assert np.array_equal(row[0], rows[t])
        np.testing.assert_allclose(alone[0], together[t], rtol=1e-5, atol=1e-5)


def test_bytes_are_those_of_the_parts(fitted: Any) -> None:
    parts, report, _, _ = fitted
    assert report["bytes"]["rows"] == 40 * (C + 4)
    assert report["bytes"]["codes.4"] == -(-V // 64) * 64 * 4
    assert report["bytes"]["codes.2"] == -(-300 // 64) * 64 * 4
    rest = sum(a.nbytes for name, a in parts.items() if not name.startswith("rows."))
    assert report["bytes_per_token"] == rest + 40 * (C + 4)


def test_pages_seen_are_those_of_the_rows_read(fitted: Any) -> None:
    parts, _, _, states = fitted
    chosen = reference.preview_logits(preview_head.weights(parts), states[:50])[1].any(axis=0)
    pages = {byte // 4096 for row in np.flatnonzero(chosen) for byte in (row * C, row * C + C - 1)}
    assert preview_head.seen_bytes(parts, states[:50]) == 4096 * len(pages) > 4096
    everything = {**parts, "wanted": np.array([V], np.int32)}
    assert preview_head.seen_bytes(everything, states[:1]) == -(-V * C // 4096) * 4096


def test_the_same_input_gives_the_same_parts() -> None:
    weight, states = made(3)
    first, second = (
        preview_head.fit_preview(weight, states, levels=((V, 8, 4),))[0] for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_default_levels_hold_nearly_all_of_the_probability() -> None:
    p = 0.999 ** np.arange(20000)
    first, second = preview_head.default_levels(p / p.sum(), 512)
    assert first == (20000, 16, 4)
    assert second[1:] == (112, 2) and 9200 < second.rows <= 9206 + 1024
    assert (
        preview_head.default_levels(p, 40)[1].rank == 16
        and len(preview_head.default_levels(p, 16)) == 1
    )


@pytest.mark.parametrize(
    "levels",
    [
        (),
        ((V - 1, 8, 4),),
        ((V, 4, 4),),
        ((V, 8, 3),),
        ((V, 16, 2),),
        ((V, 8, 4), (V + 1, 16, 2)),
        ((V, 8, 4), (9, 8, 4)),
        ((V, C, 4), (9, 16, 2)),
    ],
)
def test_levels_out_of_range_are_refused(levels: Any) -> None:
    with pytest.raises(ArgumentError, match="levels"):
        preview_head.fit_preview(*made(), levels=levels)


def test_states_of_another_width_are_refused() -> None:
    weight, states = made()
    with pytest.raises(ArgumentError, match="states"):
        preview_head.fit_preview(weight, np.ascontiguousarray(states[:, 1:]))
    with pytest.raises(ArgumentError, match="finite"):
        preview_head.fit_preview(weight, np.full_like(states, np.nan))


def test_all_clusters_is_the_dense_head(clustered: Any) -> None:
    parts, _, weight, states = clustered
    every = parts | {"p_min": np.full(1, 2, np.float32), "limits": np.array([20, 20], np.int32)}
    logits, chosen = head_clusters.cluster_logits(every, states[:20])
    assert chosen.all()
    np.testing.assert_allclose(logits, dense(weight, states[:20]), rtol=1e-5, atol=1e-5)


def test_unread_clusters_keep_exactly_their_probability(clustered: Any) -> None:
    parts, _, weight, states = clustered
    logits, chosen = head_clusters.cluster_logits(parts, states)
    assert 0 < chosen.sum() < chosen.size
    share = head_clusters.cluster_probabilities(parts, states)
    p = np.exp(log_softmax(logits))[:, parts["ids"]]
    mass = np.add.reduceat(p, parts["starts"][:-1], axis=1)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(mass[~chosen], share[~chosen], rtol=1e-4, atol=1e-12)
    exact = dense(weight, states)[:, parts["ids"]]
    read = np.repeat(chosen, np.diff(parts["starts"]), axis=1)
    np.testing.assert_allclose(logits[:, parts["ids"]][read], exact[read], rtol=1e-5, atol=1e-5)


def test_clusters_are_chosen_until_they_hold_p_min(clustered: Any) -> None:
    parts, _, _, _ = clustered
    share = np.array([[0.45, 0.04, 0.01, 0.5], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]])
    small = parts | {"p_min": np.full(1, 0.95, np.float32), "limits": np.array([2, 3], np.int32)}
    chosen = head_clusters.choose_clusters(small, share)
    assert chosen.tolist() == [
        [True, False, False, True],
        [True, True, False, False],
        [True, True, True, False],
    ]


def test_clusters_are_bounded_and_none_is_empty(clustered: Any) -> None:
    parts, report, _, _ = clustered
    sizes = np.diff(parts["starts"])
    assert sizes.min() >= 1
    assert sizes.max() <= 3 * V / 20
    assert np.array_equal(np.sort(parts["ids"]), np.arange(V))
    assert 3 <= report["clusters"] <= 12


def test_the_cluster_head_knows_the_masses(clustered: Any) -> None:
    parts, report, weight, states = clustered
    p = np.exp(log_softmax(states @ weight.T))[:, parts["ids"]]
    mass = np.add.reduceat(p, parts["starts"][:-1], axis=1)
    constant = mass.mean(axis=0)
    blind = (mass * np.log(np.maximum(mass, 1e-12) / constant)).sum(axis=1).mean()
    assert report["divergence"] < blind / 5


@pytest.mark.parametrize(
    "wrong", [{"clusters": 1}, {"clusters": V + 1}, {"p_min": 1.5}, {"k_min": 0}, {"k_max": 2}]
)
def test_cluster_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="settings"):
        head_clusters.cluster_head(*made(), **({"clusters": 20} | wrong))
