"""Pytrees as vectors: inner products, combinations and random ones, never ravelled.

Nothing here reshapes a leaf, so a leaf that is split over devices stays so, and inner
products are all that has to be added up between them. Complex leaves count as their
real and imaginary parts: <x, y> is the real part of the conjugated product.
"""

# R rows of a basis.

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg._finite import widened
from jopt.tree import PyTree, global_norm

Matvec = Callable[[PyTree], PyTree]


def widen(tree: PyTree) -> PyTree:
    """Every leaf in float32, complex64 or the wider dtype that it has.

    >>> widen({"a": jnp.ones(2, jnp.bfloat16)})["a"].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda leaf: widened(jnp.asarray(leaf)), tree)


def real_dtype(tree: PyTree) -> jnp.dtype:
    """The dtype of inner products: float32, or wider where a leaf is.

    >>> real_dtype({"a": jnp.ones(2, jnp.complex64)})
    dtype('float32')
    """
    wide = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(tree)))
    return jnp.finfo(wide).dtype


def dimension(tree: PyTree) -> int:
    """Real numbers in a tree; a complex one counts twice.

    Fails: `ConfigError` for a tree without any.

    >>> dimension({"a": jnp.ones((2, 3)), "b": jnp.ones(2, jnp.complex64)})
    10
    """
    found = sum(
        leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)
        for leaf in jax.tree.leaves(tree)
    )
    if found == 0:
        raise ConfigError(
            "there is no curvature without parameters: the tree has no element"
        )
    return found


def tree_inner(x: PyTree, y: PyTree) -> jax.Array:
    """Re <x, y> over all leaves, in float32 or wider.

    >>> float(tree_inner({"a": jnp.ones(2)}, {"a": jnp.array([1.0, 2.0])}))
    3.0
    """
    parts = jax.tree.leaves(
        jax.tree.map(
            lambda a, b: jnp.sum(jnp.real(jnp.conj(widened(a)) * widened(b))), x, y
        )
    )
    return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros(())


def scaled(x: PyTree, factor: jax.typing.ArrayLike) -> PyTree:
    """factor * x, in the dtypes of x.

    >>> scaled({"a": jnp.ones(2)}, 2.0)["a"].tolist()
    [2.0, 2.0]
    """
    return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), x)


def added(x: PyTree, y: PyTree, factor: jax.typing.ArrayLike = 1.0) -> PyTree:
    """x + factor * y, in the dtypes of x.

    >>> added({"a": jnp.ones(2)}, {"a": jnp.ones(2)}, -1.0)["a"].tolist()
    [0.0, 0.0]
    """
    return jax.tree.map(lambda a, b: (a + factor * b).astype(a.dtype), x, y)


def unit(x: PyTree) -> tuple[PyTree, jax.Array]:
    """x / |x| and |x|; zero stays zero, NaN stays NaN.

    >>> unit({"a": jnp.array([3.0, 4.0])})[1].tolist()
    5.0
    """
    length = global_norm(x)
    safe = jnp.where(length == 0, 1, length)
    return jax.tree.map(lambda leaf: (leaf / safe).astype(leaf.dtype), x), length


def no_rows(like: PyTree, count: int) -> PyTree:
    """A basis of `count` zero rows: each leaf with a leading axis R.

    >>> no_rows({"a": jnp.ones(2)}, 3)["a"].shape
    (3, 2)
    """
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), like)


def row(basis: PyTree, number: jax.typing.ArrayLike) -> PyTree:
    """One row of a basis; `number` may be traced.

    >>> row({"a": jnp.arange(6).reshape(3, 2)}, 1)["a"].tolist()
    [2, 3]
    """
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, 0, keepdims=False),
        basis,
    )


def with_row(basis: PyTree, number: jax.typing.ArrayLike, x: PyTree) -> PyTree:
    """A basis with one row replaced; a number past its end changes nothing.

    >>> with_row({"a": jnp.zeros((2, 1))}, 1, {"a": jnp.ones(1)})["a"].tolist()
    [[0.0], [1.0]]
    """
    return jax.tree.map(
        lambda rows, leaf: rows.at[number].set(leaf, mode="drop"), basis, x
    )


def along_rows(basis: PyTree, x: PyTree) -> jax.Array:
    """<b_r, x> for every row, (R,).

    >>> along_rows({"a": jnp.eye(2)}, {"a": jnp.array([3.0, 4.0])}).tolist()
    [3.0, 4.0]
    """

    def products(rows: jax.Array, leaf: jax.Array) -> jax.Array:
        axes = tuple(range(leaf.ndim))
        over = (tuple(axis + 1 for axis in axes), axes)
        found = jax.lax.dot_general(
            jnp.conj(rows), leaf, (over, ((), ())), precision=jax.lax.Precision.HIGHEST
        )
        return jnp.real(found)

    return sum_leaves(jax.tree.map(products, basis, x))


def combined(basis: PyTree, weights_R: jax.Array) -> PyTree:
    """sum_r weights_r b_r.

    >>> combined({"a": jnp.eye(2)}, jnp.array([3.0, 4.0]))["a"].tolist()
    [3.0, 4.0]
    """
    return jax.tree.map(
        lambda rows: jnp.tensordot(
            weights_R.astype(rows.dtype), rows, 1, precision=jax.lax.Precision.HIGHEST
        ),
        basis,
    )


def sum_leaves(tree: PyTree) -> jax.Array:
    """The sum of leaves of one shape.

    >>> sum_leaves({"a": jnp.ones(2), "b": jnp.ones(2)}).tolist()
    [2.0, 2.0]
    """
    return jnp.sum(jnp.stack(jax.tree.leaves(tree)), axis=0)


def orthogonal_to(basis: PyTree, x: PyTree) -> tuple[PyTree, jax.Array]:
    """x without what it has along orthonormal rows, and its coefficients along them.

    Twice, so that the result is orthogonal to rounding also where little is left. Rows
    of zeros take nothing away.

    >>> orthogonal_to({"a": jnp.eye(2)[:1]}, {"a": jnp.array([3.0, 4.0])})[0]["a"]
    Array([0., 4.], dtype=float32)
    """
    first_R = along_rows(basis, x)
    x = added(x, combined(basis, first_R), -1.0)
    second_R = along_rows(basis, x)
    return added(x, combined(basis, second_R), -1.0), first_R + second_R


def normal_like(key: jax.Array, like: PyTree) -> PyTree:
    """Standard normal entries in float32 or wider; both parts of a complex one.

    >>> normal_like(jax.random.key(0), {"a": jnp.zeros(2, jnp.bfloat16)})["a"].dtype
    dtype('float32')
    """
    return _random(jax.random.normal, key, like)


def signs_like(key: jax.Array, like: PyTree) -> PyTree:
    """Entries -1 or 1 with equal probability; both parts of a complex one.

    >>> abs(signs_like(jax.random.key(0), {"a": jnp.zeros(2)})["a"]).tolist()
    [1.0, 1.0]
    """
    return _random(jax.random.rademacher, key, like)


def _random(draw: Callable[..., jax.Array], key: jax.Array, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(widen(like))
    keys = jax.random.split(key, max(len(leaves), 1))

    def one(key: jax.Array, leaf: jax.Array) -> jax.Array:
        if not jnp.iscomplexobj(leaf):
            return draw(key, leaf.shape, leaf.dtype)
        parts = draw(key, (2, *leaf.shape), jnp.finfo(leaf.dtype).dtype)
        return jax.lax.complex(parts[0], parts[1])

    drawn = [one(k, leaf) for k, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(structure, drawn)
