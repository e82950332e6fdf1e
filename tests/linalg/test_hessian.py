"""Hessian-vector products against dense Hessians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jopt.errors import ConfigError
from jopt.linalg import batch_mean, ggn_vp, hessian_operator, hvp

# B batch; I inputs; F hidden; C outputs.


def outputs(params, batch):
    hidden_BF = jnp.tanh(batch["x"] @ params["up"] + params["bias"])
    return hidden_BF @ params["down"]


def squared(z, batch):
    return jnp.mean(jnp.sum((z - batch["y"]) ** 2, axis=-1)) / 2


def loss(params, batch):
    return squared(outputs(params, batch), batch)


@pytest.fixture
def problem():
    """A perceptron with 131 parameters, and 12 examples."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    params = {"up": normal(8, 10), "bias": normal(10), "down": 0.5 * normal(10, 3)}
    batch = {"x": normal(12, 8), "y": normal(12, 3)}
    return params, batch, jax.tree.map(jnp.ones_like, params) | {"up": normal(8, 10)}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("mode", ["forward_over_reverse", "rev_over_rev"])
def test_hvp_against_the_dense_hessian(problem, mode, remat):
    """Columns, all at once through a random vector, and a unit one; measured: 2e-7."""
    params, batch, v = problem
    flat, unravel = ravel_pytree(params)
    dense = jax.hessian(lambda w: loss(unravel(w), batch))(flat)
    for vector in (ravel_pytree(v)[0], jnp.eye(len(flat))[17]):
        found = hvp(loss, params, unravel(vector), batch, mode=mode, remat=remat)
        expected = dense @ vector
        gap = jnp.abs(ravel_pytree(found)[0] - expected).max()
        assert gap <= 1e-5 * jnp.abs(expected).max()


def test_gauss_newton(problem):
    params, batch, v = problem
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacobian(lambda w: outputs(unravel(w), batch).ravel())(flat)
    dense = jacobian.T @ jacobian / 12
    found = ggn_vp(outputs, squared, params, v, batch)
    expected = dense @ ravel_pytree(v)[0]
    gap = jnp.abs(ravel_pytree(found)[0] - expected).max()
    assert gap <= 1e-5 * jnp.abs(expected).max()
    # Where the model is linear in its parameters it is the Hessian.
    only = {"down": params["down"]}

    def linear(p, batch):
        return outputs({**params, **p}, batch)

    v = {"down": v["down"]}
    np.testing.assert_allclose(
        ggn_vp(linear, squared, only, v, batch)["down"],
        hvp(lambda p, b: squared(linear(p, b), b), only, v, batch)["down"],
        rtol=1e-5,
    )


def test_batches_count_by_their_examples(problem):
    """Batches of 8 and 4 examples, the second filled up with rows that do not count."""
    params, batch, v = problem

    def masked(params, batch):
        rows = jnp.sum((outputs(params, batch) - batch["y"]) ** 2, axis=-1) / 2
        return jnp.sum(rows * batch["m"]) / jnp.sum(batch["m"])

    whole = hvp(loss, params, v, batch)
    padded = {
        name: jnp.concatenate([x, jnp.full((4, *x.shape[1:]), 7.0)]).reshape(2, 8, -1)
        for name, x in batch.items()
    }
    mask = (jnp.arange(16) < 12).astype(jnp.float32).reshape(2, 8)
    matvec = hessian_operator(
        masked, params, batches={**padded, "m": mask}, weights=mask.sum(1)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        matvec(v),
        whole,
    )
    # A batch that counts nothing adds nothing, whatever comes out of it.
    empty = jnp.stack([mask[0], jnp.zeros(8)])
    first = {name: x[:8] for name, x in batch.items()}
    matvec = hessian_operator(
        masked, params, batches={**padded, "m": empty}, weights=empty.sum(1)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        matvec(v),
        hvp(loss, params, v, first),
    )


def test_half_precision_has_wide_tangents(problem):
    """As exact as in float32 at the rounded weights, in result and in direction."""
    params, batch, v = problem
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    found = hvp(loss, half, v, batch)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, found, hvp(loss, wide, v, batch))


@pytest.mark.parametrize("where", ["args", "batches", "no batch"])
def test_an_empty_batch(problem, where):
    params, batch, v = problem
    nothing = {name: x[:0] for name, x in batch.items()}
    with pytest.raises(ConfigError, match="the batch is empty"):
        if where == "args":
            hvp(loss, params, v, nothing)
        elif where == "batches":
            batch_mean(None, jax.tree.map(lambda x: x[None], nothing))
        else:
            batch_mean(None, nothing)


def test_an_operation_without_a_forward_rule():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))
    w = jnp.array([1.0, 2.0])

    def total(w):
        return jnp.sum(cube(w))

    v = jnp.ones(2)
    np.testing.assert_allclose(hvp(total, w, v, mode="rev_over_rev"), 6 * w)
    with pytest.raises(ConfigError, match="unknown hvp mode 'reverse'"):
        hvp(total, w, v, mode="reverse")
