"""Factors beside matrices: grouping, orientation, holes, devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.transforms._factors import init_factors, map_factored, part_of
from jopt.transforms._views import Views

SPECS = {
    "qkv": MatrixSpec((0,), (1,), split=(6, 3)),
    "stack": MatrixSpec((1,), (2,)),
}
SHAPES = {"up": (4, 6), "down": (6, 4), "qkv": (4, 9), "stack": (3, 6, 4)}


class Sums(NamedTuple):
    short: jax.Array
    long: jax.Array


def first(name, stack):
    s, m, n = stack.shape
    return Sums(jnp.zeros((s, m), stack.dtype), jnp.zeros((s, n), stack.dtype))


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=v), jnp.float32) for k, v in SHAPES.items()}


def test_one_call_for_a_shape_with_the_factors_of_each_matrix():
    calls = []

    def step(shared, inputs, kept, factors):
        calls.append(inputs[0].shape)
        (x,), (old,) = inputs, kept
        factors = Sums(factors.short + x.sum(2), factors.long + x.sum(1))
        return shared * x, (old + x,), factors

    views, p = Views(SPECS), params()
    sums = init_factors(first, views, p)
    found = map_factored(step, views, p, (p,), (p,), sums, shared=jnp.float32(2))
    # `up`, `down`, the block (4, 6) of `qkv`, three of `stack`; and the block (4, 3).
    assert sorted(calls) == [(1, 3, 4), (6, 4, 6)]
    for path, x in p.items():
        np.testing.assert_array_equal(found.direction[path], 2 * x)
        np.testing.assert_array_equal(found.kept[0][path], 2 * x)
    short, long = found.factors["down"][0]
    np.testing.assert_allclose(short[0], p["down"].sum(0), rtol=1e-5)
    np.testing.assert_allclose(long[0], p["down"].sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        found.factors["stack"][0].short, p["stack"].sum(1), rtol=1e-5
    )
    blocks = found.factors["qkv"]
    np.testing.assert_allclose(blocks[0].long[0], p["qkv"][:, :6].sum(0), rtol=1e-5)
    np.testing.assert_allclose(blocks[1].short[0], p["qkv"][:, 6:].sum(0), rtol=1e-5)


def test_statistics_are_wide_and_what_is_kept_keeps_its_dtype():
    def step(shared, inputs, kept, factors):
        assert {x.dtype for x in (*inputs, *kept)} == {jnp.dtype("float32")}
        return inputs[0], kept, factors

    p = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    sums = init_factors(first, Views(SPECS), p)
    assert {x.dtype for x in jax.tree.leaves(sums)} == {jnp.dtype("float32")}
    found = map_factored(step, Views(SPECS), p, (p,), (p,), sums)
    assert {x.dtype for x in jax.tree.leaves(found.kept)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("fraction", "side", "count"),
    [(1.0, 5, 5), (0.25, 6, 2), (0.07, 100, 7), (1e-9, 4, 1), (1, 3, 3), (0.5, 0, 0)],
)
def test_part_of_a_side(fraction, side, count):
    assert part_of("fraction", fraction, side) == count


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan"), None, "half"])
def test_other_fractions_are_refused(fraction):
    with pytest.raises(ConfigError, match=r"fraction is .*\(0, 1\]"):
        part_of("fraction", fraction, 4)


# The order of sums differs.
TOLERANCE = 1e-5


def gaps(on_devices, *names):
    script = Path(__file__).with_name("factors_worker.py")
    return json.loads(on_devices(4, script, *names, JAX_DISABLE_MOST_OPTIMIZATIONS="1"))


@pytest.mark.slow
@pytest.mark.devices
def test_on_four_devices_as_on_one(on_devices):
    """Under jit, and inside shard_map: dense, stacked, fused, per head, cut anyhow."""
    found = gaps(on_devices, "dion")
    assert set(found) == {"jit dion", "shard_map dion"}
    assert not {name: gap for name, gap in found.items() if not gap <= TOLERANCE}


@pytest.mark.slow
@pytest.mark.devices
def test_every_method_on_four_devices_as_on_one(on_devices):
    found = gaps(on_devices)
    assert len(found) == 8
    assert not {name: gap for name, gap in found.items() if not gap <= TOLERANCE}
