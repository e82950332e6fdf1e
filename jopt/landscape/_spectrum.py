"""The spectrum of a Hessian: ends, trace, diagonal and density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict, Unpack

import jax
import jax.numpy as jnp

from jopt import linalg
from jopt.errors import check_choice
from jopt.linalg import EigResult, Estimate, eigsh, hessian_operator
from jopt.linalg._hessian import HvpMode
from jopt.linalg._lanczos import End
from jopt.linalg._tree_vectors import Matvec
from jopt.tree import PyTree

Loss = Callable[..., jax.Array]
EigMethod = Literal["lanczos", "power"]


class HowToMultiply(TypedDict, total=False):
    """Keyword arguments that every function of the Hessian takes.

    Attributes:
        batches: a tree of arrays with a leading axis K: the loss is then the mean of
            `loss(params, batch, *args)`, one batch after the other.
        weights: (K,), the examples that each batch counts; all equal if absent.
        mode: `forward_over_reverse`, or `rev_over_rev` for operations without a
            forward rule. Static.
        remat: recompute instead of keeping intermediate values. Static.
    """

    batches: PyTree
    weights: jax.Array
    mode: HvpMode
    remat: bool


def hessian_top_k(
    loss: Loss,
    params: PyTree,
    *args: Any,
    k: int = 1,
    num_matvecs: int = 40,
    key: jax.Array | None = None,
    which: End = "largest",
    **how: Unpack[HowToMultiply],
) -> EigResult:
    """k eigenpairs of the Hessian of `loss(params, *args)` at one end, by Lanczos.

    Args:
        loss: a real scalar, the same at every call: dropout off.
        params: where; leaves of half precision are taken to float32.
        k: how many; static.
        num_matvecs: Hessian-vector products; clipped to the dimension. Static.
        key: of the random start; the same everywhere without one.
        which: `largest` (signed), `smallest`, or `magnitude`. Static.
        how: see `HowToMultiply`.

    Returns: `EigResult(values, vectors, residuals)`. An eigenvalue lies within the
    residual of each value: that is the error bar, besides rounding. Where the Krylov
    space ends early, values that it does not have are NaN. NaN parameters give NaN.
    Cost: num_matvecs products of 2 to 3 gradients each, and as many trees of memory.
    Fails: `ConfigError` for an empty batch, no parameters, or k above num_matvecs.

    >>> def loss(w, scales):
    ...     return jnp.sum(scales * w**2) / 2
    >>> found = hessian_top_k(loss, jnp.ones(3), jnp.array([1.0, 2.0, -5.0]), k=2)
    >>> found.values.round(4).tolist()
    [2.0, 1.0]
    """
    matvec = hessian_operator(loss, params, *args, **how)
    return eigsh(matvec, params, k, which=which, num_matvecs=num_matvecs, key=key)


def lambda_max(
    loss: Loss,
    params: PyTree,
    *args: Any,
    method: EigMethod = "lanczos",
    num_matvecs: int = 40,
    num_iters: jax.typing.ArrayLike = 100,
    rtol: jax.typing.ArrayLike = 1e-3,
    key: jax.Array | None = None,
    **how: Unpack[HowToMultiply],
) -> jax.Array:
    """The largest signed eigenvalue of the Hessian, a scalar.

    `lanczos` takes `num_matvecs` products and trees of memory; `hessian_top_k` gives
    its error bar. `power` has three trees of memory: a power iteration finds the size
    of the Hessian, and where a negative eigenvalue wins, another on the shifted one
    its upper end. Up to `num_iters` products each, until the residual is below `rtol`.

    >>> def loss(w):
    ...     return (w[0] ** 2 - 5 * w[1] ** 2) / 2
    >>> [round(float(lambda_max(loss, jnp.ones(2), method=method)), 2)
    ...  for method in ("lanczos", "power")]
    [1.0, 1.0]
    """
    check_choice("method", method, ("lanczos", "power"))
    matvec = hessian_operator(loss, params, *args, **how)
    if method == "power":
        found = linalg.power_largest(
            matvec, params, num_iters=num_iters, rtol=rtol, key=key
        )
    else:
        found = eigsh(matvec, params, num_matvecs=num_matvecs, key=key)
    return found.values[0]


def lambda_min(loss: Loss, params: PyTree, *args: Any, **options: Any) -> jax.Array:
    """The smallest signed eigenvalue of the Hessian; arguments as in `lambda_max`.

    >>> def loss(w):
    ...     return (w[0] ** 2 - 5 * w[1] ** 2) / 2
    >>> round(float(lambda_min(loss, jnp.ones(2))), 4)
    -5.0
    """
    return -lambda_max(lambda *inner: -loss(*inner), params, *args, **options)


def hessian_trace(
    loss: Loss,
    params: PyTree,
    *args: Any,
    num_probes: int = 64,
    key: jax.Array | None = None,
    method: Literal["hutchinson", "xtrace"] = "hutchinson",
    **how: Unpack[HowToMultiply],
) -> Estimate:
    """The trace of the Hessian and its standard error, as `(mean, sem)`.

    Args:
        num_probes: Hessian-vector products, whichever the method. Static.
        method: `hutchinson`, random signs; `xtrace` has a much smaller error where the
            spectrum decays, and `num_probes` trees of memory. Static.

    >>> def loss(w):
    ...     return (w[0] ** 2 - 5 * w[1] ** 2) / 2
    >>> mean, sem = hessian_trace(loss, jnp.ones(2), num_probes=2)
    >>> float(mean), float(sem)
    (-4.0, 0.0)
    """
    check_choice("method", method, ("hutchinson", "xtrace"))
    estimate = linalg.xtrace if method == "xtrace" else linalg.hutchinson_trace
    matvec = hessian_operator(loss, params, *args, **how)
    return estimate(matvec, params, num_probes, key=key)


def hessian_diagonal(
    loss: Loss,
    params: PyTree,
    *args: Any,
    num_probes: int = 64,
    key: jax.Array | None = None,
    **how: Unpack[HowToMultiply],
) -> Estimate:
    """The diagonal of the Hessian and the error of each entry, two trees.

    >>> found = hessian_diagonal(lambda w: jnp.sum(w**3) / 6, jnp.arange(3.0))
    >>> found.mean.tolist()
    [0.0, 1.0, 2.0]
    """
    matvec = hessian_operator(loss, params, *args, **how)
    return linalg.hutchinson_diagonal(matvec, params, num_probes, key=key)


def spectral_density(
    loss: Loss,
    params: PyTree,
    *args: Any,
    num_matvecs: int = 80,
    num_probes: int = 8,
    width: jax.typing.ArrayLike = 1e-2,
    num_points: int = 1024,
    key: jax.Array | None = None,
    **how: Unpack[HowToMultiply],
) -> linalg.Density:
    """The density of the Hessian's eigenvalues, `(grid, density)`, with integral 1.

    Arguments and cost are those of `jopt.linalg.spectral_density`.

    >>> grid, density = spectral_density(lambda w: jnp.sum(w**2), jnp.ones(3))
    >>> round(float(grid[jnp.argmax(density)]), 2)
    2.0
    """
    matvec = hessian_operator(loss, params, *args, **how)
    return linalg.spectral_density(
        matvec,
        params,
        num_matvecs,
        num_probes,
        width=width,
        num_points=num_points,
        key=key,
    )


def preconditioned_lambda_max(
    loss: Loss,
    params: PyTree,
    preconditioner: PyTree,
    *args: Any,
    num_matvecs: int = 40,
    key: jax.Array | None = None,
    **how: Unpack[HowToMultiply],
) -> jax.Array:
    """The largest eigenvalue of P^-1 H, for a diagonal P > 0 given as a tree.

    That of the symmetric P^-1/2 H P^-1/2, which has the same ones.

    References: Cohen et al. 2022, Adaptive gradient methods at the edge of stability,
    arXiv 2207.14484.

    >>> p = jnp.array([1.0, 10.0])
    >>> found = preconditioned_lambda_max(lambda w: jnp.sum(w**2) / 2, jnp.ones(2), p)
    >>> round(float(found), 4)
    1.0
    """
    matvec = hessian_operator(loss, params, *args, **how)
    scale = jax.tree.map(lambda p: jax.lax.rsqrt(linalg.widened(p)), preconditioner)
    return eigsh(
        between(matvec, scale), params, num_matvecs=num_matvecs, key=key
    ).values[0]


def between(matvec: Matvec, scale: PyTree) -> Matvec:
    """v -> D A D v, for a diagonal D given as a tree.

    >>> between(lambda v: 3 * v, jnp.array([1.0, 2.0]))(jnp.ones(2)).tolist()
    [3.0, 12.0]
    """

    def product(v: PyTree) -> PyTree:
        image = matvec(jax.tree.map(jnp.multiply, scale, v))
        return jax.tree.map(jnp.multiply, scale, image)

    return product


def adam_preconditioner(
    nu: PyTree,
    count: jax.typing.ArrayLike,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> PyTree:
    """The diagonal P with which Adam's step is -eta P^-1 M, M the plain average.

        P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps)

    Args:
        nu: average of squared gradients, of Optax's `ScaleByAdamState`.
        count: updates so far, t of that state, 1 or more.

    References: Cohen et al. 2022, arXiv 2207.14484, section 2, with both corrections of
    bias.

    >>> p = adam_preconditioner({"w": jnp.array([0.001])}, 1)
    >>> round(float(p["w"][0]), 4)
    0.1
    """
    count = jnp.asarray(count, jnp.float32)
    first, second = 1 - jnp.power(b1, count), 1 - jnp.power(b2, count)
    return jax.tree.map(
        lambda x: first * (jnp.sqrt(linalg.widened(x) / second) + eps), nu
    )
