"""Full-batch training on a few digits, with the curvature beside it."""

# D examples; I inputs; F hidden; C classes; T rows.

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt import data
from jopt.landscape._own_norm import NormName
from jopt.landscape.curvature import (
    adam_preconditioner,
    curvature_in_norm,
    lambda_max,
    preconditioned_lambda_max,
    stability_threshold,
    steepest,
)
from jopt.linalg._tree_vectors import tree_inner
from jopt.matrix import MatrixSpec
from jopt.tree import PyTree, global_norm

BETA = 0.9  # of the two with momentum
B2 = 0.99  # of Adam
RHO = 0.05  # of SAM
VIEWS = {name: MatrixSpec((0,), (1,)) for name in ("0", "1", "2")}
NORMS: dict[str, NormName] = {"sign": "sign", "muon": "spectral"}

Params = dict[str, jax.Array]


class Problem(NamedTuple):
    """Squared loss of a tanh perceptron with two hidden layers, without biases.

    Attributes:
        inputs: (D, I), pixels and a constant.
        targets: (D, C), one-hot.
        params: where all paths begin.
    """

    inputs: jax.Array
    targets: jax.Array
    params: Params


class Point(NamedTuple):
    """What holds at a row; (T,) from `run_path`.

    Attributes:
        loss: the loss.
        curvature: lambda_max, of P^-1 H for Adam, in the norm of the steps for sign
            and Muon.
        threshold: mean over the steps since the last row.
    """

    loss: jax.Array
    curvature: jax.Array
    threshold: jax.Array


def make_problem(seed: int, examples: int, width: int) -> Problem:
    """The first training digits; weights with variance 1 / (4 fan-in).

    So small that every path begins below its threshold.
    """
    rows = data.load_digits().train
    inputs = np.asarray(rows.inputs[:examples], np.float32).reshape(examples, -1)
    inputs = np.concatenate([inputs, np.ones((examples, 1), np.float32)], axis=1)
    targets = np.eye(10, dtype=np.float32)[np.asarray(rows.targets[:examples])]
    rng = np.random.default_rng(seed)
    widths = (inputs.shape[1], width, width, 10)
    params = {}
    for layer, (m, n) in enumerate(itertools.pairwise(widths)):
        weights = rng.standard_normal((m, n)) / np.sqrt(4 * m)
        params[str(layer)] = jnp.asarray(weights, jnp.float32)
    return Problem(jnp.asarray(inputs), jnp.asarray(targets), params)


def loss(params: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over examples of |outputs - targets|^2 / 2.

    >>> params = {name: jnp.zeros((2, 2)) for name in "012"}
    >>> round(float(loss(params, jnp.ones((3, 2)), jnp.eye(3)[:, :2])), 4)
    0.3333
    """
    x = jnp.tanh(inputs @ params["0"])
    x = jnp.tanh(x @ params["1"])
    return jnp.mean(jnp.sum((x @ params["2"] - targets) ** 2, axis=1)) / 2


def transformation(name: str, eta: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a path; those of sign and Muon have no momentum.

    >>> tx, w = transformation("gd", 0.5), jnp.ones(1)
    >>> tx.update(w, tx.init(w), w)[0].tolist()
    [-0.5]
    """
    makers: dict[str, Callable[[], Any]] = {
        "gd": lambda: optax.sgd(eta),
        "sam": lambda: jopt.sharpness_aware(optax.sgd(eta), jopt.l2_ascent(RHO)),
        "heavy_ball": lambda: optax.sgd(eta, momentum=BETA),
        "adam": lambda: optax.adam(eta, b1=BETA, b2=B2),
        "sign": lambda: jopt.sign_sgd(eta),
        "muon": lambda: jopt.muon.matrices(
            eta, beta=0.0, nesterov=False, scale="none", matrix_specs=VIEWS
        ),
    }
    return optax.with_extra_args_support(makers[name]())


@functools.partial(jax.jit, static_argnums=(1, 3, 4))
def run_path(
    problem: Problem, name: str, eta: jax.Array, rows: int, every: int
) -> Point:
    """`every` steps of an optimizer before each of so many rows."""
    inputs, targets, start = problem
    tx = transformation(name, eta)
    slope = jax.grad(loss)

    def threshold(grads: Params) -> jax.Array:
        if name in ("heavy_ball", "adam"):
            return stability_threshold(name, eta, momentum=BETA)
        if name == "sam":
            size = global_norm(grads)
            return stability_threshold("sam", eta, rho=RHO, grad_norm=size)
        if name in NORMS:
            dual = tree_inner(grads, steepest(NORMS[name], VIEWS)(grads))
            return stability_threshold(name, eta, dual_norm=dual)
        return stability_threshold("gd", eta)

    def step(carry: tuple[Params, PyTree], _: None) -> tuple[Any, jax.Array]:
        params, state = carry
        grads = slope(params, inputs, targets)
        limit = threshold(grads)
        updates, state = tx.update(
            grads, state, params, grad_fn=lambda other: slope(other, inputs, targets)
        )
        return (optax.apply_updates(params, updates), state), limit

    def curvature(params: Params, state: PyTree) -> jax.Array:
        at = (params, inputs, targets)
        if name == "adam":
            adam = state[0]
            p = adam_preconditioner(adam.nu, adam.count, b1=BETA, b2=B2)
            return preconditioned_lambda_max(
                loss, params, p, inputs, targets, num_matvecs=20
            )
        if name in NORMS:
            return curvature_in_norm(
                loss, *at, norm=NORMS[name], matrix_specs=VIEWS, num_starts=2
            ).curvature
        return lambda_max(loss, *at, num_matvecs=20)

    def row(carry: tuple[Params, PyTree], _: None) -> tuple[Any, Point]:
        carry, limits = jax.lax.scan(step, carry, length=every)
        here = loss(carry[0], inputs, targets)
        return carry, Point(here, curvature(*carry), jnp.mean(limits))

    return jax.lax.scan(row, (start, tx.init(start)), length=rows)[1]
