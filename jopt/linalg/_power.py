"""Power iterations on pytrees: an end of a spectrum, the largest form in a ball."""

# S starts.

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg._lanczos import EigResult
from jopt.linalg._tree_vectors import (
    Matvec,
    added,
    normal_like,
    tree_inner,
    unit,
    widen,
)
from jopt.tree import PyTree, global_norm


def power_iteration(
    matvec: Matvec,
    like: PyTree,
    *,
    shift: jax.typing.ArrayLike = 0.0,
    num_iters: jax.typing.ArrayLike = 100,
    rtol: jax.typing.ArrayLike = 1e-3,
    key: jax.Array | None = None,
) -> EigResult:
    """The eigenvalue of A that is farthest from `shift`, with three trees of memory.

    Without a shift that is the largest |value|, which for a Hessian may well be its
    smallest eigenvalue; see `power_largest`. Ends when the residual |A v - value v| is
    at most rtol |value - shift|, after `num_iters` products, or at the first NaN.

    Args:
        matvec: symmetric, tree -> tree.
        like: a tree of the shapes.
        shift, num_iters, rtol: may be traced.
        key: of the start; the same everywhere without one.

    Returns: one pair, of A and not of A - shift.

    >>> scales = jnp.array([1.0, -5.0])
    >>> found = power_iteration(lambda v: scales * v, jnp.zeros(2))
    >>> round(float(found.values[0]), 3)
    -5.0
    """
    start, _ = unit(normal_like(jax.random.key(0) if key is None else key, like))
    found = _iterate(matvec, start, shift, num_iters, rtol)
    return EigResult(
        found.value[None],
        jax.tree.map(lambda x: x[None], found.vector),
        found.residual[None],
    )


def power_largest(
    matvec: Matvec,
    like: PyTree,
    *,
    num_iters: jax.typing.ArrayLike = 100,
    rtol: jax.typing.ArrayLike = 1e-3,
    key: jax.Array | None = None,
) -> EigResult:
    """The largest signed eigenvalue by two power iterations.

    The first finds the size |A| of the operator. Where it has settled on a value that
    is not negative, that is the answer. Otherwise (a negative end that wins, or two
    ends of one size) the second runs on A + |A|, whose largest |value| is at the upper
    end.

    Args, cost: those of `power_iteration`, up to twice as many products.

    >>> scales = jnp.array([1.0, -5.0])
    >>> round(float(power_largest(lambda v: scales * v, jnp.zeros(2)).values[0]), 3)
    1.0
    """
    start, _ = unit(normal_like(jax.random.key(0) if key is None else key, like))
    first = _iterate(matvec, start, 0.0, num_iters, rtol)
    done = (first.value >= 0) & (first.residual <= rtol * first.value)
    again = _iterate(
        matvec, start, -first.size, jnp.where(done, 0, num_iters), rtol, first.size
    )
    value, residual, vector = jax.tree.map(
        lambda a, b: jnp.where(done, a, b),
        (first.value, first.residual, first.vector),
        (again.value, again.residual, again.vector),
    )
    return EigResult(
        value[None], jax.tree.map(lambda x: x[None], vector), residual[None]
    )


class _Power(NamedTuple):
    """Where a power iteration is.

    Attributes:
        products: so far.
        vector: of unit length.
        value: its Rayleigh quotient, of A.
        residual: |A v - value v|.
        size: |A v|.
    """

    products: jax.Array
    vector: PyTree
    value: jax.Array
    residual: jax.Array
    size: jax.Array


def _iterate(
    matvec: Matvec,
    start: PyTree,
    shift: jax.typing.ArrayLike,
    num_iters: jax.typing.ArrayLike,
    rtol: jax.typing.ArrayLike,
    scale: jax.typing.ArrayLike = 0.0,
) -> _Power:
    """At least one product; `scale` is what `rtol` is of besides |value - shift|."""

    def measured(count: jax.Array, v: PyTree) -> tuple[_Power, PyTree]:
        image = jax.tree.map(lambda x, w: w.astype(x.dtype), v, matvec(v))
        value = tree_inner(v, image)
        residual = global_norm(added(image, v, -value))
        return _Power(count, v, value, residual, global_norm(image)), image

    def going(carry: tuple[_Power, PyTree]) -> jax.Array:
        now, _ = carry
        allowed = rtol * jnp.maximum(jnp.abs(now.value - shift), scale)
        apart = now.residual > allowed  # false for NaN
        return (now.products < num_iters) & apart

    def step(carry: tuple[_Power, PyTree]) -> tuple[_Power, PyTree]:
        now, image = carry
        v, length = unit(added(image, now.vector, -jnp.asarray(shift)))
        # A v = shift v: v is an eigenvector, and its own direction stays.
        v = jax.tree.map(lambda a, b: jnp.where(length == 0, b, a), v, now.vector)
        return measured(now.products + 1, v)

    first = measured(jnp.ones((), jnp.int32), start)
    return jax.lax.while_loop(going, step, first)[0]


class BallResult(NamedTuple):
    """The largest quadratic form found in a ball.

    Attributes:
        value: <D, A D>, a lower bound of the maximum.
        direction: D, of norm at most 1 in every block.
    """

    value: jax.Array
    direction: PyTree


def largest_form_in_ball(
    matvec: Matvec,
    lmo: Callable[[PyTree], PyTree],
    starts: PyTree,
    *,
    shift: jax.typing.ArrayLike = 0.0,
    num_iters: int = 20,
) -> BallResult:
    """max <D, A D> over the unit ball of a norm, from below.

    D <- lmo(A D + shift D), where lmo(X) maximises <X, D> over the ball. With A + shift
    positive semi-definite no step lowers <D, (A + shift) D>, and so none lowers
    <D, A D> where all corners of the ball have one Euclidean length (signs, polar
    factors of full rank). The maximum itself is NP-hard already for signs; the best of
    all starts and iterates counts. `jopt.criteria.sign_curvature` does so for one Gram
    matrix, with moves of single signs as well, which need its entries.

    Args:
        matvec: symmetric, tree -> tree.
        lmo: tree -> tree, such as signs or polar factors leaf by leaf.
        starts: a tree with a leading axis S; each is taken through `lmo` first.
        shift: at least minus the smallest eigenvalue of A. May be traced.
        num_iters: of each start, 1 or more. Static.

    Cost: S (num_iters + 1) products, one start after the other.
    References: Journée, Nesterov, Richtárik, Sepulchre 2010, Generalized power method
    for sparse principal component analysis, arXiv 0811.4724, section 3.

    >>> a = jnp.array([[2.0, -1.0], [-1.0, 2.0]])
    >>> starts = jnp.array([[1.0, 0.5], [1.0, -0.5]])
    >>> found = largest_form_in_ball(lambda v: a @ v, jnp.sign, starts)
    >>> float(found.value), found.direction.tolist()
    (6.0, [1.0, -1.0])
    """
    if num_iters < 1:
        raise ConfigError(f"num_iters is {num_iters}; it must be at least 1")

    def form(d: PyTree) -> tuple[jax.Array, PyTree]:
        image = jax.tree.map(lambda x, w: w.astype(x.dtype), d, matvec(d))
        return tree_inner(d, image), image

    def climb(start: PyTree) -> BallResult:
        d = lmo(start)
        value, image = form(d)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            best, kept, d, image = carry
            d = lmo(added(image, d, shift))
            value, image = form(d)
            # Not `value > best`, which would hide a NaN.
            worse = value <= best
            best = jnp.where(worse, best, value)
            kept = jax.tree.map(lambda a, b: jnp.where(worse, a, b), kept, d)
            return (best, kept, d, image), None

        carry = (value, d, d, image)
        (best, kept, _, _), _ = jax.lax.scan(step, carry, length=num_iters)
        return BallResult(best, kept)

    found = jax.lax.map(climb, widen(starts))
    place = jnp.argmax(found.value)  # that of a NaN, if there is one
    return jax.tree.map(lambda x: x[place], found)
