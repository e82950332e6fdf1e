"""DARE, Breadcrumbs, equal norms, and consensus masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.errors import ConfigError


def dropped(p, key, stacked, **kwargs):
    context = merging.make_context({}, len(stacked["w"]), key=key)
    return merging.dare(p, **kwargs).fn(stacked, context)


def test_dare_is_unbiased_and_keeps_exact_values(draw):
    """Rescaling to the l1 norm of the vector, as toolkits do, would not be."""
    stacked = {"w": draw(1, 20)}
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: dropped(0.75, key, stacked)["w"]))(keys)
    error = jnp.abs(found.mean(axis=0) - stacked["w"])
    # The standard deviation of the mean is |tau| sqrt(3 / 4000).
    assert (error <= 5 * jnp.abs(stacked["w"]) * (3 / 4000) ** 0.5).all()
    kept = found != 0
    exact = jnp.broadcast_to(stacked["w"] / 0.25, found.shape)
    np.testing.assert_array_equal(found[kept], exact[kept])
    plain = dropped(0.75, keys[0], stacked, rescale=False)["w"]
    np.testing.assert_array_equal(plain * 4, found[0])


@pytest.mark.slow
def test_dare_masks_follow_from_key_task_and_path(draw):
    one = {"w": draw(2, 30), "v": draw(2, 30)}
    more = {**{p: jnp.concatenate([x, x]) for p, x in one.items()}, "u": draw(4, 3)}
    key = jax.random.key(1)
    found, again, larger = (dropped(0.5, key, x) for x in (one, one, more))
    for path in one:
        np.testing.assert_array_equal(found[path], again[path])
        np.testing.assert_array_equal(found[path], larger[path][:2])
    masks = {p: np.asarray(x != 0) for p, x in larger.items()}
    assert (masks["w"][0] != masks["w"][1]).any()
    assert (masks["w"] != masks["v"]).any()


def test_dare_bounds():
    stacked = {"w": jnp.ones((1, 5))}
    assert dropped(0.0, jax.random.key(0), stacked)["w"].tolist() == [[1.0] * 5]
    for p in (1, 1.0, 1.5):
        with pytest.raises(ConfigError):
            merging.dare(p)


@pytest.mark.parametrize(
    ("density", "gamma", "expected"),
    [
        (1.0, 0.0, [5, 1, -4, 2, 3]),
        (0.6, 0.2, [0, 0, -4, 2, 3]),
        (0.6, 0.0, [5, 0, -4, 0, 3]),  # where [:-0] would keep nothing
        (1.0, 0.4, [5, 1, -4, 2, 3]),  # density wins
        (0.8, 0.4, [0, 1, -4, 2, 3]),
        (0.0, 0.0, [0, 0, 0, 0, 0]),
    ],
)
def test_breadcrumbs(reduced, density, gamma, expected):
    stacked = {"w": jnp.array([[5.0, 1.0, -4.0, 2.0, 3.0]])}
    found = reduced(merging.breadcrumbs(density, gamma), stacked)
    assert found["w"].tolist() == expected


@pytest.mark.parametrize(
    ("target", "norms"), [("mean", 3.0), ("median", 2.0), ("min", 1.0), (7.0, 7.0)]
)
def test_norms_are_made_equal(target, norms, size=1e-30):
    rows = jnp.array([[0.6, 0.8], [2.0, 0.0], [0.0, 6.0], [0.0, 0.0]])
    aim = target if isinstance(target, str) else target * size
    found = merging.rescale_norm(aim).fn(
        {"w": size * rows}, merging.make_context({}, 4)
    )
    expected = np.array([norms] * 3 + [0])
    np.testing.assert_allclose(merging.task_norms(found) / size, expected, rtol=1e-6)


@pytest.mark.slow
def test_norms_of_each_leaf():
    stacked = {"a": jnp.array([[1.0], [3.0]]), "b": jnp.array([[8.0], [2.0]])}
    found = merging.rescale_norm(scope="leaf").fn(stacked, merging.make_context({}, 2))
    assert found["a"].ravel().tolist() == [2.0, 2.0]
    assert found["b"].ravel().tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("k", "expected"), [(0, "sum"), (2, [2.0, 0.0, 0.0, 0.0]), (4, [0.0] * 4)]
)
def test_consensus_counts_users(reduced, k, expected):
    rows = [[1.0, 0.0, 0.1, 0.0], [1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.3]]
    stacked = {"w": jnp.array(rows)}
    found = reduced(merging.consensus_ta(k), stacked)["w"]
    expected = np.sum(np.float32(rows), axis=0) if expected == "sum" else expected
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nobody_uses_what_nobody_touched():
    """With >= instead of > every untouched entry would count for all tasks."""
    stacked = {"w": jnp.zeros((2, 3))}
    assert not merging.tall_masks(stacked, {"w": jnp.zeros(3)})["w"].any()


def test_a_threshold_without_a_score_is_not_chosen():
    """The masks of the first one give a model whose score is NaN."""
    stacked = {"w": jnp.array([[1.0, 0.5], [0.0, 1.0]])}
    scores = iter([jnp.nan, jnp.nan, 0.1, 0.3, 0.2, 0.3])
    found = merging.search_thresholds(
        {"w": jnp.zeros(2)},
        stacked,
        {"w": jnp.array([1.0, 1.5])},
        [lambda params: next(scores)] * 2,
        grid=(0.2, 0.3, 0.4),
    )
    assert found.tolist() == [0.4, 0.3]


@pytest.mark.slow
def test_consensus_ties_masks_the_ties_vector(reduced, draw):
    stacked = {"w": draw(4, 50)}
    whole = reduced(merging.ties(0.5), stacked)["w"]
    found = reduced(merging.consensus_ties(2, density=0.5), stacked)["w"]
    kept = merging.tall_masks(stacked, {"w": whole})["w"].sum(axis=0) >= 2
    np.testing.assert_array_equal(found, jnp.where(kept, whole, 0))
    assert 0 < int((found != 0).sum()) < int((whole != 0).sum())
