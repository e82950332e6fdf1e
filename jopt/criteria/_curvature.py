"""How fast the loss bends against a unit step of each geometry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._directions import Directions
from jopt.criteria._sign_curvature import sign_curvature, sign_curvature_bound
from jopt.criteria._together import on_shared_grams
from jopt.criteria._views import (
    View,
    each_matrix,
    fan_sizes,
    gram_stack,
    leaves_with_views,
    repeated,
)
from jopt.errors import ConfigError, check_choice
from jopt.linalg import widened
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import on_finite
from jopt.matrix import MatrixSpec, as_matrix_spec, assemble, matrices
from jopt.tree import PyTree, named_leaves

# B the spec's batch; S stacked matrices; M fan-in n; N fan-out m.

CurvatureMode = Literal["worst_case", "directional", "dimension", "none"]
CURVATURE_MODES = ("worst_case", "directional", "dimension", "none")
# A curvature that is not positive counts as so much of the other one.
CURVATURE_FLOOR = 1e-12


class Curvature(NamedTuple):
    """Constants of L(W + U) <= L(W) + <G, U> + L_g ||U||^2 / 2, up to a common factor.

    Attributes:
        l_max: for sign steps (the largest entry); None in the mode `none`.
        l_op: for spectral steps (the largest singular value); None likewise.
    """

    l_max: jax.Array | None
    l_op: jax.Array | None


def curvature_constants(
    gram: jax.Array | None,
    *,
    fan_in: jax.typing.ArrayLike,
    fan_out: jax.typing.ArrayLike,
    mode: CurvatureMode = "worst_case",
    directions: Directions | None = None,
    starts: int = 16,
    iters: jax.typing.ArrayLike = 50,
    key: jax.Array | None = None,
) -> Curvature:
    """L_max and L_op of a linear layer y = x W, from C = A^T A / N of its inputs.

    For a loss that is c-smooth in y, n = fan-in, m = fan-out, and c left out:

    - `worst_case`: L_op = tr C, L_max = m max_s s^T C s over signs s, by
      `sign_curvature`. m <= L_max / L_op <= m n / st(A).
    - `directional`: along the steps themselves, L_g = tr(D_g^T C D_g).
    - `dimension`: without activations, L_op = 1 and L_max = m sqrt(n), between these
      bounds.
    - `none`: no constants; `spec_sign_index` then is the pure signal-to-noise rule.

    Args:
        gram: (..., n, n), tokens averaged; None in the last two modes.
        fan_in, fan_out: n and m; numbers, or arrays of the shape (...).
        mode: static.
        directions: of `directional`, (..., n, m) each, see `steepest_directions`.
        starts: of the sign power iteration; 0 takes `sign_curvature_bound`, from above.
            Static.
        iters, key: of the sign power iteration.

    Returns: float32 or wider, (...). Zero activations give zeros; NaN or infinity in a
    Gram matrix gives NaN for that layer.
    Cost: `worst_case` a few products of `starts` vectors with C; `directional` two
    products n x n x m, besides the directions.
    Fails: `ConfigError` for another mode, or without what it needs; `ShapeError` for a
    Gram matrix that is not square.
    References: our reconstruction ("derived"), see `half_split_stats`.

    >>> gram = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> [float(x) for x in curvature_constants(gram, fan_in=2, fan_out=3)]
    [18.0, 4.0]
    >>> [float(x) for x in curvature_constants(None, fan_in=4, fan_out=3,
    ...                                        mode="dimension")]
    [6.0, 1.0]
    """
    check_choice("curvature mode", mode, CURVATURE_MODES)
    if mode == "none":
        return Curvature(None, None)
    if mode == "dimension":
        inside, outside = jnp.asarray(fan_in), jnp.asarray(fan_out)
        l_max = jnp.asarray(outside * jnp.sqrt(inside), jnp.float32)
        return Curvature(l_max, jnp.ones_like(l_max))
    if gram is None:
        raise ConfigError(
            f"curvature mode {mode!r} needs the activations' Gram matrix; without it "
            "use 'dimension', or curvature_from_hvp"
        )
    if mode == "worst_case":
        largest = _sign_form(gram, starts, iters, key)
        return Curvature(jnp.asarray(fan_out) * largest, _trace(gram))
    if directions is None:
        raise ConfigError(
            "curvature mode 'directional' needs directions=steepest_directions(G)"
        )
    return Curvature(*(jnp.sum(_form(gram, d), axis=(-2, -1)) for d in directions))


def leaf_curvature(
    gram: jax.Array | None,
    shape: tuple[int, ...],
    matrix_spec: View = None,
    *,
    mode: CurvatureMode = "worst_case",
    directions: Directions | None = None,
    starts: int = 16,
    iters: jax.typing.ArrayLike = 50,
    key: jax.Array | None = None,
    worst_case: Curvature | None = None,
) -> Curvature:
    """`curvature_constants` of every matrix of a weight, ordered as its statistics.

    Blocks and heads side by side share the activations, and so the work on C.

    Args:
        gram: (n, n), or (B, n, n) for B stacked layers; without a `matrix_spec` (...,
            n, n).
        shape: of the weight.
        directions: in the shape of the weight.
        worst_case: of `gram` with a fan-out of 1, where it is known already.

    >>> fused = MatrixSpec((0,), (1,), split=(4, 2))
    >>> l_max, l_op = leaf_curvature(jnp.eye(3), (3, 6), fused)
    >>> l_max.tolist(), l_op.tolist()
    ([12.0, 6.0], [3.0, 3.0])
    """
    fan_in, fan_out = fan_sizes(shape, matrix_spec)
    if gram is not None and mode not in ("dimension", "none"):
        gram = gram_stack(gram, shape, matrix_spec)
    if matrix_spec is None or gram is None or mode in ("dimension", "none"):
        return curvature_constants(
            gram,
            fan_in=fan_in,
            fan_out=fan_out,
            mode=mode,
            directions=directions,
            starts=starts,
            iters=iters,
            key=key,
        )
    if mode == "directional":
        if directions is None:
            raise ConfigError(
                "curvature mode 'directional' needs directions=steepest_directions(G)"
            )
        return Curvature(*(_leaf_form(gram, d, matrix_spec) for d in directions))
    once = worst_case or curvature_constants(
        gram, fan_in=fan_in, fan_out=1, mode=mode, starts=starts, iters=iters, key=key
    )
    l_max, l_op = (repeated(x, shape, matrix_spec) for x in once if x is not None)
    return Curvature(fan_out * l_max, l_op)


def tree_curvature(
    grams: Mapping[str, jax.Array],
    tree: PyTree,
    specs: Mapping[str, MatrixSpec],
    *,
    mode: CurvatureMode = "worst_case",
    directions: Directions | None = None,
    starts: int = 16,
    iters: jax.typing.ArrayLike = 50,
    key: jax.Array | None = None,
) -> dict[str, Curvature]:
    """`leaf_curvature` of every leaf that has a view, by path.

    A weight without a Gram matrix gets the mode `dimension`: `curvature_modes` says
    which, so that a report can.

    Args:
        grams: path -> (n, n) or (B, n, n).
        tree: of the weights, or anything with their shapes.
        specs: path -> view; leaves without one are left out.
        directions: of `directional`, trees.

    >>> tree, specs = {"w": jnp.ones((4, 2))}, {"w": MatrixSpec((0,), (1,))}
    >>> tree_curvature({}, tree, specs)["w"].l_max.tolist()
    [4.0]
    """
    modes = curvature_modes(grams, specs, mode)
    leaves = {path: leaf for path, (leaf,) in leaves_with_views(specs, tree).items()}
    forms = {
        path: (gram, gram_stack(gram, leaves[path].shape, specs[path], where=path))
        for path, gram in grams.items()
        if path in specs and gram is not None
    }
    of_inputs = partial(
        curvature_constants, fan_in=1, fan_out=1, starts=starts, iters=iters, key=key
    )
    known = on_shared_grams(of_inputs, forms) if mode == "worst_case" else {}
    ways = None if directions is None else [named_leaves(d) for d in directions]
    found = {}
    for path, leaf in leaves.items():
        along = None if ways is None else Directions(*(way[path] for way in ways))
        found[path] = leaf_curvature(
            forms[path][1] if path in forms else None,
            leaf.shape,
            specs[path],
            mode=modes[path],
            directions=along,
            worst_case=known.get(path),
        )
    return found


def curvature_modes(
    grams: Mapping[str, jax.Array], specs: Mapping[str, MatrixSpec], mode: CurvatureMode
) -> dict[str, CurvatureMode]:
    """The mode that each weight really has: `dimension` where it has no Gram matrix.

    >>> curvature_modes({}, {"w": MatrixSpec((0,), (1,))}, "worst_case")
    {'w': 'dimension'}
    """
    check_choice("curvature mode", mode, CURVATURE_MODES)
    measured = mode in ("worst_case", "directional")
    return {
        path: "dimension" if measured and grams.get(path) is None else mode
        for path in specs
    }


def log_curvature_ratio(curvature: Curvature) -> jax.Array:
    """log(L_max / L_op), finite for any constants that are.

    One that is zero or less (flat, or bent down, along a measured direction) counts as
    1e-12 of the other; where neither is positive the curvature says nothing, and the
    result is 0, as for the mode `none`.

    >>> log_curvature_ratio(Curvature(jnp.zeros(2), jnp.array([0.0, 1.0]))).round(2)
    Array([  0.  , -27.63], dtype=float32)
    """
    l_max, l_op = curvature
    if l_max is None or l_op is None:
        return jnp.zeros(())
    # A NaN is not <= 0, and stays visible.
    largest = jnp.maximum(l_max, l_op)
    flat = largest <= 0
    lowest = _log(largest) + math.log(CURVATURE_FLOOR)

    def log(constant: jax.Array) -> jax.Array:
        found = jnp.maximum(_log(constant), lowest)
        return jnp.where(flat, 0.0, jnp.where(constant <= 0, lowest, found))

    return log(l_max) - log(l_op)


def _log(x: jax.Array) -> jax.Array:
    """log(x), and 0 instead of anything infinite for zero and less."""
    return jnp.log(jnp.where(x <= 0, 1, x))


def _sign_form(
    gram: jax.Array, starts: int, iters: jax.typing.ArrayLike, key: jax.Array | None
) -> jax.Array:
    if starts == 0:
        return sign_curvature_bound(gram)
    return sign_curvature(gram, starts=starts, iters=iters, key=key)


def _trace(gram: jax.Array) -> jax.Array:
    if gram.size == 0:
        return jnp.zeros(gram.shape[:-2], widened(gram).dtype)
    return on_finite(lambda c: jnp.trace(c, axis1=-2, axis2=-1), widened(gram))


def _form(gram: jax.Array, d: jax.Array) -> jax.Array:
    """The terms of tr(D^T C D), entry by entry."""
    d = widened(d)
    return d * einsum("...mk,...kn->...mn", widened(gram), d)


def _leaf_form(gram_BMM: jax.Array, d: jax.Array, view: View) -> jax.Array:
    """tr(D^T C D) of each matrix of a leaf, C D taken over all of them at once."""
    spec = as_matrix_spec(view)
    whole = dataclasses.replace(spec, split=None, heads=None)
    (d_BMN,) = matrices(d, whole)
    terms = assemble([_form(gram_BMM, d_BMN)], whole, d.shape)
    return each_matrix(lambda x: jnp.sum(x, axis=(-2, -1)), spec, terms)
