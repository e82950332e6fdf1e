"""A loss along lines and planes through a point, as arrays."""

# X, Y points along each direction; S stacked matrices; M, N fan-in and fan-out.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.landscape._spectrum import Loss, hessian_top_k
from jopt.linalg._hessian import check_not_empty, gradient
from jopt.linalg._tree_vectors import added, normal_like, row, unit, widen
from jopt.matrix import MatrixSpec, as_matrix_spec, assemble, matrices
from jopt.tree import PyTree, map_named


class Slice(NamedTuple):
    """Losses on a line or a plane.

    Attributes:
        offsets: (X,), along each direction.
        values: (X,) or (X, X), of the loss; [i, j] is at offset i along the first.
        directions: the trees that the offsets are multiplied with, one or two.
    """

    offsets: jax.Array
    values: jax.Array
    directions: tuple[PyTree, ...]


def slice_1d(
    loss: Loss,
    params: PyTree,
    *args: Any,
    direction: PyTree = "v_max",
    radius: jax.typing.ArrayLike = 1.0,
    num_points: int = 21,
    num_matvecs: int = 40,
    key: jax.Array | None = None,
) -> Slice:
    """f(w + t d) for t from -radius to radius.

    Args:
        direction: `v_max`, the top eigenvector of the Hessian; `gradient`; or a tree.
            Made a unit vector.
        num_points: odd, so that w is one of them. Static.
        num_matvecs, key: of `v_max`.

    Cost: num_points values, one after the other, besides the direction.

    >>> found = slice_1d(lambda w: jnp.sum(w**2), jnp.zeros(2), direction=jnp.ones(2),
    ...                  num_points=3)
    >>> found.offsets.tolist(), found.values.round(4).tolist()
    ([-1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    """
    check_not_empty(*args)
    at = widen(params)
    if isinstance(direction, str):
        if direction == "v_max":
            top = hessian_top_k(loss, at, *args, num_matvecs=num_matvecs, key=key)
            direction = row(top.vectors, 0)
        elif direction == "gradient":
            direction = gradient(loss, at, *args)
        else:
            raise ConfigError(
                f"direction {direction!r} is unknown; 'v_max', 'gradient' or a tree"
            )
    d, _ = unit(widen(direction))
    offsets_X = _offsets(radius, num_points)
    values_X = jax.lax.map(lambda t: loss(added(at, d, t), *args), offsets_X)
    return Slice(offsets_X, values_X, (d,))


def slice_2d(
    loss: Loss,
    params: PyTree,
    *args: Any,
    matrix_specs: Mapping[str, MatrixSpec],
    radius: jax.typing.ArrayLike = 1.0,
    num_points: int = 21,
    key: jax.Array | None = None,
) -> Slice:
    """f(w + s a + t b) for two random directions with the norms of w's filters.

    Args:
        matrix_specs: as in `filter_normalized`. Static.
        radius: 1 moves every filter by as much as its own norm.
        num_points: along each direction, odd. Static.

    Cost: num_points^2 values, one after the other.
    References: Li et al. 2018, Visualizing the loss landscape of neural nets, arXiv
    1712.09913.

    >>> views = {"w": MatrixSpec((0,), (1,))}
    >>> found = slice_2d(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.ones((3, 2))},
    ...                  matrix_specs=views, num_points=3)
    >>> found.values.shape, float(found.values[1, 1])
    ((3, 3), 6.0)
    """
    check_not_empty(*args)
    at = widen(params)
    keys = jax.random.split(jax.random.key(0) if key is None else key)
    a, b = (
        filter_normalized(normal_like(k, at), at, matrix_specs=matrix_specs)
        for k in keys
    )
    offsets_X = _offsets(radius, num_points)

    def line(s: jax.Array) -> jax.Array:
        begin = added(at, a, s)
        return jax.lax.map(lambda t: loss(added(begin, b, t), *args), offsets_X)

    return Slice(offsets_X, jax.lax.map(line, offsets_X), (a, b))


def filter_normalized(
    direction: PyTree, params: PyTree, *, matrix_specs: Mapping[str, MatrixSpec]
) -> PyTree:
    """A direction whose filters have the norms of the filters of `params`.

    A filter is what leads to one output: a column of a matrix (..., fan-in, fan-out),
    all positions of a convolution included. A leaf without a view (biases, norms) does
    not move, as in the reference. A filter of the direction that is zero stays zero.

    Args:
        matrix_specs: path -> view; static.

    >>> views = {"w": MatrixSpec((0,), (1,))}
    >>> weights = {"w": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones(2)}
    >>> moved = filter_normalized({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, weights,
    ...                           matrix_specs=views)
    >>> [round(float(x), 3) for x in moved["w"][0]], moved["b"].tolist()
    ([3.536, 0.0], [0.0, 0.0])
    """

    def one(path: str, d: jax.Array, w: jax.Array) -> jax.Array:
        view = matrix_specs.get(path)
        if view is None:
            return jnp.zeros_like(d)
        spec = as_matrix_spec(view)
        stacks = [
            _with_lengths(x_SMN, _lengths(y_SMN))
            for x_SMN, y_SMN in zip(matrices(d, spec), matrices(w, spec), strict=True)
        ]
        return assemble(stacks, spec, d.shape)

    return map_named(one, direction, params)


def _lengths(x_SMN: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.abs(x_SMN) ** 2, axis=1, keepdims=True))


def _with_lengths(x_SMN: jax.Array, lengths_S1N: jax.Array) -> jax.Array:
    own_S1N = _lengths(x_SMN)
    return x_SMN * (lengths_S1N / jnp.where(own_S1N == 0, 1, own_S1N))


def _offsets(radius: jax.typing.ArrayLike, num_points: int) -> jax.Array:
    if num_points < 3 or num_points % 2 == 0:
        raise ConfigError(f"num_points is {num_points}; an odd number from 3 on")
    return jnp.linspace(-1, 1, num_points) * radius
