"""Adapters are merged as the weight changes they are; KnOTS."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.errors import ShapeError


@pytest.fixture
def adapters(draw):
    return [
        merging.LoRA(draw(8, r, seed=r), draw(r, 6, seed=r + 9), alpha)
        for r, alpha in ((2, 4.0), (3, 1.0))
    ]


def test_factors_side_by_side_are_exact_and_added_up_are_not(adapters):
    deltas = [
        np.float64(x.a) @ np.float64(x.b) * x.alpha / x.a.shape[1] for x in adapters
    ]
    expected = 0.5 * deltas[0] + 2.0 * deltas[1]
    merged = merging.merge_lora(adapters, [0.5, 2.0])
    assert merged.a.shape == (8, 5)
    np.testing.assert_allclose(
        merging.lora_delta(merged), expected, rtol=1e-5, atol=1e-5
    )
    # What other tools do with adapters of one rank: cross terms a_i b_j.
    same = [adapters[0], merging.LoRA(*(2 * x for x in adapters[0][:2]), 4.0)]
    wrong = sum(np.float64(x.a) for x in same) @ sum(np.float64(x.b) for x in same) * 2
    right = np.float64(merging.lora_delta(merging.merge_lora(same)))
    assert np.linalg.norm(wrong - right) > 0.5 * np.linalg.norm(right)


@pytest.mark.slow
def test_cut_down_to_the_best_approximation(adapters):
    whole = np.float64(merging.lora_delta(merging.merge_lora(adapters)))
    u, s, vh = np.linalg.svd(whole, full_matrices=False)
    found = merging.merge_lora(adapters, rank=2)
    assert (found.a.shape, found.b.shape) == ((8, 2), (2, 6))
    np.testing.assert_allclose(
        merging.lora_delta(found), (u[:, :2] * s[:2]) @ vh[:2], atol=1e-4
    )


def test_adapters_that_do_not_fit(adapters):
    with pytest.raises(ShapeError, match="several shapes"):
        merging.merge_lora(
            [adapters[0], merging.LoRA(jnp.ones((7, 1)), jnp.ones((1, 6)), 1.0)]
        )
    with pytest.raises(ShapeError, match=r"\(8, 2\) and \(3, 6\)"):
        merging.lora_delta(merging.LoRA(jnp.ones((8, 2)), jnp.ones((3, 6)), 1.0))


def test_knots_with_a_linear_reducer_changes_nothing(reduced, draw):
    stacked = {"w": draw(3, 5, 4), "b": draw(3, 4)}
    found = reduced(merging.knots(merging.average()), stacked)
    for path, leaf in stacked.items():
        np.testing.assert_allclose(found[path], leaf.mean(axis=0), atol=1e-5)


@pytest.mark.slow
def test_knots_merges_in_the_shared_basis(reduced, adapters):
    deltas = jnp.stack([merging.lora_delta(x) for x in adapters])
    found = reduced(merging.knots(merging.ties(0.3)), {"w": deltas}, jit=False)["w"]
    tall = np.float64(deltas).reshape(16, 6)
    p, s, qh = np.linalg.svd(tall, full_matrices=False)
    kept = s > 1e-4
    assert kept.sum() == 5  # the sum of the ranks
    pieces = (p * s)[:, kept].reshape(2, 8, 5)
    merged = reduced(merging.ties(0.3), {"w": jnp.float32(pieces)})["w"]
    np.testing.assert_allclose(found, np.float64(merged) @ qh[kept], atol=1e-4)
    context = merging.make_context({}, 2)
    traced = jax.jit(merging.knots(merging.ties(0.3), rank=5).fn)(
        {"w": deltas}, context
    )
    np.testing.assert_allclose(traced["w"], found, atol=1e-4)
