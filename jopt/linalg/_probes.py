"""Traces, diagonals and norms of an operator from products with random trees."""

# P probes; M test directions of XTrace.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg._finite import on_finite
from jopt.linalg._tree_vectors import (
    Matvec,
    along_rows,
    dimension,
    no_rows,
    orthogonal_to,
    real_dtype,
    row,
    signs_like,
    tree_inner,
    unit,
    with_row,
)
from jopt.tree import PyTree, global_norm


class Estimate(NamedTuple):
    """A mean over random probes.

    Attributes:
        mean: of all probes.
        sem: its standard error, from their spread; NaN for a single probe.
    """

    mean: Any
    sem: Any


def hutchinson_trace(
    matvec: Matvec, like: PyTree, num_probes: int = 64, *, key: jax.Array | None = None
) -> Estimate:
    """tr A as the mean of <v, A v> over random signs v.

    The variance of a probe is 2 (|A|_F^2 - sum_i A_ii^2), so a diagonal operator needs
    only one. All probes are always used: a rule that stops on a small relative change
    is passed by chance where terms of both signs cancel.

    Args:
        matvec: symmetric, tree -> tree.
        like: a tree of the shapes.
        num_probes: products, one after the other. Static.
        key: of the signs; the same everywhere without one.

    References: Hutchinson 1990, Commun. Stat. Simul. Comput. 19.

    >>> scales = jnp.array([1.0, -3.0])
    >>> found = hutchinson_trace(lambda v: scales * v, jnp.zeros(2), 2)
    >>> float(found.mean), float(found.sem)
    (-2.0, 0.0)
    """
    return _probed(lambda v: tree_inner(v, matvec(v)), like, num_probes, key)


def frobenius_squared(
    matvec: Matvec, like: PyTree, num_probes: int = 64, *, key: jax.Array | None = None
) -> Estimate:
    """|A|_F^2 as the mean of |A v|^2 over random signs v; arguments as the trace's.

    >>> scales = jnp.array([1.0, -3.0])
    >>> float(frobenius_squared(lambda v: scales * v, jnp.zeros(2), 2).mean)
    10.0
    """
    return _probed(lambda v: global_norm(matvec(v)) ** 2, like, num_probes, key)


def hutchinson_diagonal(
    matvec: Matvec, like: PyTree, num_probes: int = 64, *, key: jax.Array | None = None
) -> Estimate:
    """The diagonal of A as the mean of v * (A v) over random signs v, a tree.

    A complex leaf has the diagonal of its real parts as real part, and of its imaginary
    parts as imaginary one.

    Returns: trees like `like`; the error of each entry is by itself.
    References: Bekas, Kokiopoulou, Saad 2007, Appl. Numer. Math. 57.

    >>> scales = jnp.array([1.0, -3.0])
    >>> hutchinson_diagonal(lambda v: scales * v, jnp.zeros(2), 1).mean.tolist()
    [1.0, -3.0]
    """

    def product(v: PyTree) -> PyTree:
        return jax.tree.map(_entrywise, v, matvec(v))

    return _probed(product, like, num_probes, key)


def xtrace(
    matvec: Matvec, like: PyTree, num_probes: int = 64, *, key: jax.Array | None = None
) -> Estimate:
    """tr A by XTrace: much fewer products than Hutchinson where the spectrum decays.

    Half of the products find a basis Q of A w_1 ... A w_M, M = num_probes / 2, the
    other half A Q. Each w_i in turn is left out: the trace inside the range of all
    others is exact, and w_i estimates the rest. With s_i the unit vector, in
    coordinates of Q, that is orthogonal to A w_j for all j but i, and t_i = (I - s_i
    s_i^T) Q^T w_i, H = Q^T A Q, r_i = Q^T A w_i, the estimates are

        tr H - s_i^T H s_i + w_i^T A w_i - 2 t_i^T r_i + t_i^T H t_i.

    Exact, with error 0, for an operator of rank below M.

    Args:
        num_probes: products in all, 2 or more; 4 for an error. Static.

    Cost: the products one after the other, 2 M trees of memory, M^3.
    References: Epperly, Tropp, Webber 2024, XTrace, arXiv 2301.07825; their formula for
    a symmetric operator and random signs, without the rescaling of the test vectors
    ("derived").

    >>> scales = jnp.array([1.0, -3.0, 0.0, 0.0])
    >>> round(float(xtrace(lambda v: scales * v, jnp.zeros(4), 8).mean), 4)
    -2.0
    """
    if num_probes < 2:
        raise ConfigError(f"xtrace needs 2 or more products, not {num_probes}")
    count = min(num_probes // 2, dimension(like))
    keys_M = jax.random.split(jax.random.key(0) if key is None else key, count)
    dtype = real_dtype(signs_like(keys_M[0], like))
    rounding = 100 * float(jnp.finfo(dtype).eps)

    def extend(carry: tuple, item: tuple) -> tuple[tuple, tuple]:
        basis, size = carry
        number, key = item
        w = signs_like(key, like)
        image = jax.tree.map(lambda x, y: y.astype(x.dtype), w, matvec(w))
        rest, inside_M = orthogonal_to(basis, image)
        direction, length = unit(rest)
        size = jnp.maximum(size, global_norm(image))
        new = ~(length <= rounding * size)  # true for NaN, which stays
        direction = jax.tree.map(lambda x: jnp.where(new, x, 0), direction)
        column_M = inside_M.at[number].set(jnp.where(new, length, 0))
        carry = with_row(basis, number, direction), size
        return carry, (column_M, tree_inner(w, image))

    start = no_rows(signs_like(keys_M[0], like), count), jnp.zeros((), dtype)
    items = jnp.arange(count), keys_M
    (basis, _), (columns, forms_M) = jax.lax.scan(extend, start, items)
    r_MM = columns.T  # A w_i = Q r_i
    h_MM = jax.lax.map(
        lambda number: along_rows(basis, matvec(row(basis, number))),
        jnp.arange(count),
    )
    w_MM = jax.lax.map(lambda key: along_rows(basis, signs_like(key, like)), keys_M).T
    s_MM = on_finite(_left_out, r_MM)

    def estimate(s_M, w_M, r_M, form) -> jax.Array:
        t_M = w_M - s_M * jnp.dot(s_M, w_M, precision="highest")
        inside = jnp.trace(h_MM) - _form(h_MM, s_M)
        cross = jnp.dot(t_M, r_M, precision="highest")
        return inside + form - 2 * cross + _form(h_MM, t_M)

    values_M = jax.vmap(estimate)(s_MM.T, w_MM.T, r_MM.T, forms_M)
    return mean_of(lambda value: value, count, over=values_M)


def _left_out(r_MM: jax.Array) -> jax.Array:
    """Columns s_i: unit, and orthogonal to every column of R but the i-th.

    Zero where the i-th is in the span of the others, so that leaving it out loses
    nothing.
    """
    inverse_MM = jnp.linalg.pinv(r_MM)
    # 1 for a column that no others span, and generically 1 - 1 / M or less otherwise.
    share_M = jnp.einsum("ij,ji->i", inverse_MM, r_MM, precision="highest")
    lengths_M = jnp.sqrt(jnp.sum(inverse_MM**2, axis=1))
    alone_M = share_M > 1 - 0.1 / len(r_MM)
    return jnp.where(alone_M, inverse_MM.T / jnp.where(alone_M, lengths_M, 1), 0)


def _form(h_MM: jax.Array, x_M: jax.Array) -> jax.Array:
    return jnp.dot(x_M, jnp.dot(h_MM, x_M, precision="highest"), precision="highest")


def _entrywise(v: jax.Array, image: jax.Array) -> jax.Array:
    if not jnp.iscomplexobj(v):
        return v * image
    return jax.lax.complex(v.real * image.real, v.imag * image.imag)


def mean_of(
    statistic: Callable[[Any], PyTree],
    count: int,
    key: jax.Array | None = None,
    *,
    over: PyTree = None,
) -> Estimate:
    """Mean and standard error of `statistic(key)`, with two results of memory.

    Args:
        statistic: a tree of arrays, of a random key.
        count: keys, one after the other; static.
        key: to split; the same everywhere without one.
        over: arrays with a leading axis `count`, whose rows `statistic` gets instead.

    >>> found = mean_of(lambda x: x, 3, over=jnp.array([1.0, 2.0, 6.0]))
    >>> float(found.mean), round(float(found.sem), 4)
    (3.0, 1.5275)
    """
    if count < 1:
        raise ConfigError(f"num_probes is {count}; it must be at least 1")
    if over is None:
        over = jax.random.split(jax.random.key(0) if key is None else key, count)

    def step(carry: tuple, item: tuple) -> tuple[tuple, None]:
        mean, spread = carry
        number, probe = item
        found = statistic(probe)
        # Welford's update: no difference of large sums.
        before = jax.tree.map(lambda x, m: x - m, found, mean)
        mean = jax.tree.map(lambda m, d: m + d / number.astype(m.dtype), mean, before)
        spread = jax.tree.map(
            lambda s, d, x, m: s + _entrywise(d, x - m), spread, before, found, mean
        )
        return (mean, spread), None

    shapes = jax.eval_shape(statistic, jax.tree.map(lambda x: x[0], over))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    numbers = jnp.arange(1, count + 1, dtype=jnp.float32)
    (mean, spread), _ = jax.lax.scan(step, (zeros, zeros), (numbers, over))
    return Estimate(mean, jax.tree.map(lambda s: _error(s, count), spread))


def _probed(
    statistic: Callable[[PyTree], PyTree],
    like: PyTree,
    num_probes: int,
    key: jax.Array | None,
) -> Estimate:
    """`mean_of` a statistic of random signs."""
    dimension(like)
    return mean_of(lambda k: statistic(signs_like(k, like)), num_probes, key)


def _error(spread: jax.Array, count: int) -> jax.Array:
    if count == 1:
        return jnp.full_like(spread, jnp.nan)
    if jnp.iscomplexobj(spread):
        return jax.lax.complex(_error(spread.real, count), _error(spread.imag, count))
    return jnp.sqrt(spread / (count * (count - 1)))
