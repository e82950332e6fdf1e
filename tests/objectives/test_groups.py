"""Accuracy by group: sums that add up, empty groups, percentiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.objectives import groups as by_group

RNG = np.random.default_rng(0)
HIT, GROUP = RNG.integers(0, 2, 200) * 1.0, RNG.integers(-1, 7, 200)
MASK = RNG.integers(0, 2, 200) * 1.0


def test_groups_agree_with_numpy():
    """Of the groups 0 to 5; 4 is empty, and what is outside counts nowhere."""
    mask = np.where(GROUP == 4, 0, MASK)
    found = jax.jit(by_group.group_sums, static_argnums=2)(HIT, GROUP, 6, mask=mask)
    some = [e for e in range(6) if e != 4]
    each = [HIT[(e == GROUP) & (mask > 0)].mean() for e in some]
    accuracies = by_group.group_accuracies(found)
    np.testing.assert_allclose(accuracies[jnp.array(some)], each, rtol=1e-6)
    assert np.isnan(accuracies[4]) and found.examples[4] == 0
    np.testing.assert_allclose(by_group.worst_group_accuracy(found), min(each), 1e-6)
    np.testing.assert_allclose(
        by_group.percentile_accuracy(found, 10), np.percentile(each, 10), rtol=1e-5
    )
    halves = [
        by_group.group_sums(HIT[k::2], GROUP[k::2], 6, mask=mask[k::2]) for k in (0, 1)
    ]
    for total, first, second in zip(found, *halves, strict=True):
        np.testing.assert_allclose(total, first + second)


def test_a_masked_nan_is_no_hit_and_no_miss():
    hit, group = jnp.array([1.0, jnp.nan]), jnp.array([0, 0])
    found = by_group.group_sums(hit, group, 1, mask=jnp.array([1.0, 0.0]))
    assert (found.examples.tolist(), found.correct.tolist()) == ([1.0], [1.0])


def test_a_group_without_hits_that_are_known_is_not_an_empty_one():
    lost = by_group.Groups(jnp.array([2.0, 2.0, 0.0]), jnp.array([1.0, jnp.nan, 0.0]))
    assert np.isnan(by_group.worst_group_accuracy(lost))
    assert np.isnan(by_group.percentile_accuracy(lost, 10))


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_nothing_at_all():
    empty = by_group.Groups(jnp.zeros(3), jnp.zeros(3))
    assert np.isnan(by_group.worst_group_accuracy(empty))
    assert np.isnan(by_group.percentile_accuracy(empty, 10))
