"""Curvature along the steps themselves, from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jopt.criteria._curvature import Curvature
from jopt.criteria._directions import Directions, polar_factor
from jopt.criteria._stats import inner
from jopt.criteria._views import each_matrix, leaves_with_views
from jopt.linalg import widened
from jopt.linalg._norms import NuclearMethod
from jopt.linalg._stacks import map_matrices
from jopt.matrix import MatrixSpec, as_matrix_spec, assemble, matrices
from jopt.tree import PyTree, map_named


def tree_directions(
    grads: PyTree, specs: Mapping[str, MatrixSpec], *, method: NuclearMethod = "polar"
) -> Directions:
    """`steepest_directions` of a tree: two trees, zero where a leaf has no view.

    >>> grads = {"w": 2 * jnp.eye(2), "b": jnp.ones(2)}
    >>> directions = tree_directions(grads, {"w": MatrixSpec((0,), (1,))})
    >>> directions.sign["w"].tolist(), directions.sign["b"].tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    """
    leaves = {path: leaf for path, (leaf,) in leaves_with_views(specs, grads).items()}
    views = {path: as_matrix_spec(spec) for path, spec in specs.items()}
    wide = {path: widened(leaf) for path, leaf in leaves.items()}
    polar = map_matrices(lambda x_SMN: polar_factor(x_SMN, method=method), wide, views)

    def filled(found: Mapping[str, jax.Array]) -> PyTree:
        return map_named(lambda p, g: found.get(p, jnp.zeros_like(g)), grads)

    return Directions(filled(jax.tree.map(jnp.sign, wide)), filled(polar))


def curvature_from_hvp(
    hvp: Callable[[PyTree], PyTree],
    directions: Directions,
    specs: Mapping[str, MatrixSpec],
    *,
    key: jax.Array | None = None,
) -> dict[str, Curvature]:
    """L_g = <D_g, H D_g> of every matrix, from one Hessian-vector product per geometry.

    All matrices are moved at once. Without a `key` L_g of a matrix has, besides its own
    curvature, half of what it has in common with the others, sum_l' <D_l, H_ll' D_l'>:
    the curvature of a step of the whole tree, divided among its matrices. With a `key`
    each matrix is moved forwards or backwards at random; the common parts then vanish
    in expectation, and average out over steps. Any product can be given, also that of
    the Gauss-Newton matrix, which is never negative.

    Args:
        hvp: tree -> tree, at the present parameters, such as `lambda v:
            jax.jvp(jax.grad(loss), (params,), (v,))[1]`. Called twice.
        directions: trees like the parameters, see `tree_directions`.
        specs: path -> view of the leaves that are measured.
        key: of the signs; static in whether there is one.

    Returns: path -> `Curvature`, one number for each matrix, in the order of its
    statistics. Negative where the loss bends down; `spec_sign_index` takes care.
    Cost: two Hessian-vector products, about 4 gradients.
    Fails: `ConfigError` for a path that is missing.

    References: our reconstruction ("derived"), see `half_split_stats`.

    >>> def hvp(v):
    ...     return {"w": 3 * v["w"]}
    >>> specs = {"w": MatrixSpec((0,), (1,))}
    >>> directions = tree_directions({"w": jnp.ones((2, 2))}, specs)
    >>> found = curvature_from_hvp(hvp, directions, specs)["w"]
    >>> [round(float(x), 3) for x in (found.l_max[0], found.l_op[0])]
    [12.0, 3.0]
    """
    flips = {} if key is None else _flips(directions.sign, specs, key)

    def forms(direction: PyTree) -> dict[str, jax.Array]:
        moved = map_named(lambda p, d: d * flips[p] if p in flips else d, direction)
        pairs = leaves_with_views(specs, moved, hvp(moved))
        return {
            path: each_matrix(inner, specs[path], *pair) for path, pair in pairs.items()
        }

    sign, spectral = forms(directions.sign), forms(directions.spectral)
    return {path: Curvature(sign[path], spectral[path]) for path in specs}


def _flips(
    tree: PyTree, specs: Mapping[str, MatrixSpec], key: jax.Array
) -> dict[str, jax.Array]:
    """A random sign for each matrix, in the shape of its leaf."""
    leaves = leaves_with_views(specs, tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    found = {}
    for (path, (leaf,)), leaf_key in zip(leaves.items(), keys, strict=False):
        spec = as_matrix_spec(specs[path])
        stacks = matrices(jnp.ones_like(leaf), spec)
        ends = np.cumsum([len(stack) for stack in stacks])
        signs = jax.random.rademacher(leaf_key, (int(ends[-1]), 1, 1), leaf.dtype)
        parts = jnp.split(signs, ends[:-1])
        flipped = [stack * part for stack, part in zip(stacks, parts, strict=True)]
        found[path] = assemble(flipped, spec, leaf.shape)
    return found
