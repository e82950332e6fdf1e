"""Task arithmetic, averages and TIES: hand cases, exact counts, ties, weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.errors import ConfigError

ROWS = [[3, -1, 0.5, 0, 0.2], [-2, 4, 0.1, 0.3, 0], [1, 2, -5, 0, 0.1]]


def rows(*values):
    return {"w": jnp.array(values or ROWS, jnp.float32)}


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (merging.ties(0.4), [3, 3, -5, 0, 0]),
        (merging.ties(0.4, function="sum"), [3, 6, -5, 0, 0]),
        (merging.ties(0.4, function="max"), [3, 4, -5, 0, 0]),
        (merging.ties(0.4, scope="leaf"), [3, 3, -5, 0, 0]),
        (merging.ties(1.0, election="count"), [2, 3, 0.3, 0.3, 0.15]),
        (merging.task_arithmetic(), np.sum(ROWS, 0)),
        (merging.average(), np.mean(ROWS, 0)),
        (merging.weighted_sum([1, 2, 3], normalize=True), np.dot([1, 2, 3], ROWS) / 6),
    ],
)
def test_hand_cases(reduced, transform, expected):
    np.testing.assert_allclose(reduced(transform, rows())["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("density", [0.0, 0.29, 1.0])
def test_trim_keeps_exactly_as_many_as_asked_for(density):
    """The k-th smallest inclusive, as in other tools, would keep one too many."""
    tasks = {
        "a": jax.random.normal(jax.random.key(0), (3, 4, 20)),
        "b": jnp.ones((3, 20)),
    }
    flat = np.concatenate([np.reshape(x, (3, -1)) for x in tasks.values()], axis=1)
    context = merging.make_context({}, 3)
    kept = jax.jit(lambda x: merging.trim(density).fn(x, context))(tasks)
    found = np.concatenate([np.reshape(x, (3, -1)) for x in kept.values()], axis=1)
    k = max(1, round(density * 100))
    order = np.argsort(-np.abs(flat), axis=1, kind="stable")[:, :k]
    expected = np.zeros_like(flat)
    np.put_along_axis(expected, order, np.take_along_axis(flat, order, 1), 1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_equal_magnitudes_stay_by_lower_index_across_leaves(size):
    tasks = {"a": jnp.full((1, 3), size), "b": jnp.full((1, 3), -size)}
    kept = merging.trim(0.67).fn(tasks, merging.make_context({}, 1))
    assert (kept["a"] != 0).all()
    assert (kept["b"] != 0).tolist() == [[True, False, False]]


def test_leaf_by_leaf_with_a_cut_is_the_global_method(reduced):
    """What a tool does that cannot hold all leaves at once."""
    keys = jax.random.split(jax.random.key(1), 2)
    tasks = {
        "a": jnp.round(jax.random.normal(keys[0], (3, 40)) * 2),
        "b": jnp.round(jax.random.normal(keys[1], (3, 25)) * 2),
    }
    context = merging.make_context({}, 3)
    expected = reduced(merging.ties(0.4), tasks)
    cut_leaf = jax.jit(merging.cut_leaf)
    start = cut = jax.jit(lambda x: merging.magnitude_cut(x, 0.4))(tasks)
    balance = 0
    for leaf in tasks.values():
        trimmed, cut = cut_leaf(leaf, cut)
        balance += merging.sign_balance({"x": trimmed}, context)
    assert cut.ties.tolist() == [0, 0, 0]
    cut = start
    for path, leaf in tasks.items():
        method = merging.ties(scope=cut, zero_sign=jnp.sign(balance))
        assert method.scope == "leaf"
        found = reduced(method, {path: leaf})[path]
        np.testing.assert_array_equal(found, expected[path])
        cut = cut_leaf(leaf, cut)[1]


@pytest.mark.parametrize(
    ("zero_sign", "expected"), [("majority", [-2, -1]), ("positive", [2, -1])]
)
def test_a_vote_that_ends_in_zero(reduced, zero_sign, expected):
    tasks = rows([2, -1], [-2, -1])
    found = reduced(merging.ties(1.0, zero_sign=zero_sign), tasks)
    assert found["w"].tolist() == expected


@pytest.mark.parametrize(("in_election", "expected"), [(True, 3.0), (False, -4.0)])
def test_weights_multiply_before_the_vote_unless_asked_not_to(
    reduced, in_election, expected
):
    tasks, weights = rows([3.0], [-4.0]), [2.0, 1.0]
    method = merging.ties(1.0, weights_in_election=in_election)
    assert reduced(method, tasks, weights=weights)["w"].tolist() == [expected]


def test_weights_divide_the_mean_by_those_that_agree(reduced):
    found = reduced(
        merging.ties(1.0), rows([3.0], [1.0], [-1.0]), weights=[1.0, 3.0, 1.0]
    )
    assert found["w"].tolist() == [1.5]


def test_no_sign_for_complex_leaves(reduced):
    with pytest.raises(ConfigError, match="complex leaves: z"):
        reduced(merging.ties(1.0), {"z": jnp.ones((2, 2), complex)})


@pytest.mark.slow
def test_output_agrees_with_the_elected_sign_inside_the_trimmed_supports(reduced):
    tasks = {"w": jax.random.normal(jax.random.key(2), (4, 60))}
    context = merging.make_context({}, 4)
    trimmed = merging.trim(0.3).fn(tasks, context)
    signs = merging.elected_signs(trimmed, context)["w"]
    found = reduced(merging.ties(0.3), tasks)["w"]
    some = found != 0
    assert some.any() and (jnp.sign(found) == signs)[some].all()
    assert ((trimmed["w"] != 0).any(axis=0) | ~some).all()
    alike = {"w": jnp.abs(tasks["w"])}
    np.testing.assert_allclose(
        reduced(merging.ties(1.0), alike)["w"],
        reduced(merging.average(), alike)["w"],
        rtol=1e-6,
    )
