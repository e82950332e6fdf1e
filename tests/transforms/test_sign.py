"""Soft signs, noise before the sign, and votes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.transforms import majority_vote, soft_sign


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def first(tx, x):
    return tx.update(x, tx.init(x))[0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_soft_sign_of_zero_is_the_sign_to_the_bit(scale):
    x = scale * jnp.concatenate([normal(200), jnp.zeros(2), jnp.array([-0.0])])
    x = jnp.append(x, jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    plain = first(jopt.scale_by_sign(), x)
    soft = jax.jit(lambda eps: first(jopt.scale_by_sign(soft_sign_eps=eps), x))
    np.testing.assert_array_equal(soft(0.0), plain)
    np.testing.assert_array_equal(plain, np.sign(x))


def test_a_soft_sign_is_its_formula_and_never_longer_than_one():
    x = np.logspace(-30, 30, 121, dtype=np.float32)
    x = np.concatenate([x, -x, [0.0]]).astype(np.float32)
    for eps in (1e-30, 1.0, 1e30):
        wide = x.astype(np.float64)
        expected = wide / (np.abs(wide) + eps)
        # Three roundings; below 1e-38 the result counts as 0.
        found = soft_sign(jnp.asarray(x), eps)
        np.testing.assert_allclose(found, expected, rtol=4e-7, atol=1e-37)
        assert np.abs(found).max() <= 1


def test_noise_that_vanishes_leaves_the_sign():
    x = {"w": normal(8, 8), "b": normal(9, seed=1)}
    tx = jopt.scale_by_sign(dither=optax.linear_schedule(1.0, 0.0, 2))
    state = tx.init(x)
    plain = first(jopt.scale_by_sign(), x)
    same = []
    for _ in range(3):
        updates, state = tx.update(x, state)
        same.append(all(map(np.array_equal, *map(jax.tree.leaves, (updates, plain)))))
    assert same == [False, False, True]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_signs_flip_at_the_rate_of_the_normal_law(scale):
    """Within five deviations of a binomial; one of 2e6 would go by chance."""
    n, dither = 40_000, 0.7
    x = np.repeat([0.1, -0.5, 1.0, 3.0], n).astype(np.float32)
    rms = math.sqrt(float(np.mean(x.astype(np.float64) ** 2)))
    tx = jopt.scale_by_sign(dither=dither)
    update = np.asarray(first(tx, jnp.asarray(x * scale)))
    assert set(np.unique(update)) == {-1.0, 1.0}
    for c in np.unique(x):
        flipped = np.mean(update[x == c] != np.sign(c))
        law = 0.5 * math.erfc(abs(c) / (dither * rms) / math.sqrt(2))
        assert abs(flipped - law) <= 5 * math.sqrt(law * (1 - law) / n), (
            c,
            flipped,
            law,
        )


def test_noise_is_relative_to_each_matrix_and_spares_zeros():
    x = jnp.stack([normal(30, 30), 1e-6 * normal(30, 30), jnp.zeros((30, 30))])
    x = x.at[0, 0].set(0.0).at[1, 0, 0].set(jnp.nan)
    tx = jopt.scale_by_sign(dither=1.0, matrix_specs={"x": jopt.MatrixSpec((1,), (2,))})
    found = np.asarray(first(tx, {"x": x})["x"])
    np.testing.assert_array_equal(found[2], 0.0)
    np.testing.assert_array_equal(found[0, 0], 0.0)
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 0, 0]]
    # Half of the entries of a Gaussian are weaker than its noise: about 1 / 4 flip.
    for i in (0, 1):
        assert 0.2 < np.mean((found[i] != np.sign(x[i]))[1:]) < 0.3


def test_noise_depends_on_seed_step_and_path_and_on_nothing_else():
    x = {"a": normal(20), "b": normal(20)}
    tx = jopt.scale_by_sign(dither=2.0, seed=3)
    one, state = tx.update(x, tx.init(x))
    again = first(jopt.scale_by_sign(dither=2.0, seed=jnp.int32(3)), x)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    alone = first(tx, {"b": x["b"]})
    np.testing.assert_array_equal(alone["b"], one["b"])
    for other in (
        first(jopt.scale_by_sign(dither=2.0, seed=4), x)["a"],
        tx.update(x, state)[0]["a"],
        one["b"],
    ):
        assert 2 <= np.sum(one["a"] != other) <= 18


def votes(workers, **options):
    vote = jax.vmap(lambda x: majority_vote(x, "w", **options), axis_name="w")
    return np.asarray(vote(jnp.asarray(workers, jnp.float32)))


@pytest.mark.parametrize("workers", [3, 130, 300])
def test_votes_are_exact_for_any_number_of_workers(workers):
    """Also where int8 and bfloat16 could not hold the sum: all vote for entry 0."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (workers, 50)).astype(np.float32)
    x[:, 0], x[:, 1] = 1.0, np.where(np.arange(workers) < 2, -1, 0)
    expected = np.sign(np.sign(x).sum(axis=0))
    for policy in ("propagate", "zero"):
        found = votes(x, nan_policy=policy)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_a_worker_with_nan_shows_or_does_not_vote():
    nan = np.nan
    x = [[nan, nan, 1.0], [1.0, nan, 1.0], [1.0, nan, -1.0], [-1.0, nan, 0.0]]
    assert np.isnan(votes(x)[:, :2]).all() and (votes(x)[:, 2] == 1).all()
    np.testing.assert_array_equal(votes(x, nan_policy="zero"), [[1.0, 0.0, 1.0]] * 4)


def test_what_does_not_go_together_fails_at_once():
    with pytest.raises(ConfigError, match="votes are whole"):
        jopt.scale_by_sign("data", soft_sign_eps=0.1)
    with pytest.raises(ConfigError, match="nan_policy"):
        jopt.signum(0.1, nan_policy="ignore")


@pytest.mark.devices
def test_votes_and_turns_on_four_devices(on_devices):
    script = Path(__file__).with_name("vote_worker.py")
    found = json.loads(on_devices(4, script))
    assert found.pop("wrong") == []
    sent = found.pop("sent")
    # Momentum stays where it is; whether leaves share a collective is XLA's choice.
    for name, dtypes in {"propagate": {"bf16", "f32"}, "zero": {"s8"}}.items():
        assert 1 <= len(sent[name]) <= found["leaves"], sent
        assert {kind for kind, *_ in sent[name]} == {"all-reduce"}
        assert {dtype for _, dtype, *_ in sent[name]} <= dtypes, sent
    assert found["turns"] == {"jit": True, "shard_map": True, "pmap": True}, found
    assert found["dither"] and found["shards"], found
