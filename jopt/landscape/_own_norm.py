"""Curvature in the norm of an optimizer's own steps."""

# S starts.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jopt.criteria import tree_directions
from jopt.errors import ConfigError, check_choice
from jopt.landscape._spectrum import HowToMultiply, Loss
from jopt.linalg import eigsh, hessian_operator, largest_form_in_ball
from jopt.linalg._hessian import gradient
from jopt.linalg._tree_vectors import normal_like, tree_inner, unit, widen
from jopt.matrix import MatrixSpec
from jopt.tree import PyTree, map_named

NormName = Literal["l2", "sign", "spectral"]
NORMS = ("l2", "sign", "spectral")


def steepest(
    norm: NormName, matrix_specs: Mapping[str, MatrixSpec] | None = None
) -> Callable[[PyTree], PyTree]:
    """g -> D, the unit direction of steepest increase of the whole tree.

    - `l2`: g / |g|.
    - `sign`: sign(g), for the largest entry of all.
    - `spectral`: polar(G) of every matrix and g / |g| of every other leaf, for the
      largest of all singular values and lengths.

    <g, D> is then the dual norm of g. Zero gives zero.

    Args:
        norm: static.
        matrix_specs: path -> view of the matrices, for `spectral`. Static.

    Cost: exact polar factors (a singular value decomposition each) for `spectral`.

    >>> steepest("sign")({"w": jnp.array([3.0, -2.0])})["w"].tolist()
    [1.0, -1.0]
    """
    check_choice("norm", norm, NORMS)
    if norm == "l2":
        return lambda g: unit(g)[0]
    if norm == "sign":
        return lambda g: jax.tree.map(jnp.sign, g)
    if not matrix_specs:
        raise ConfigError(
            "norm 'spectral' needs matrix_specs, path -> view of the matrices, such as "
            "those that a jopt model declares"
        )
    views = {path: spec for path, spec in matrix_specs.items() if spec is not None}

    def directions(g: PyTree) -> PyTree:
        polar = tree_directions(g, views, method="svd").spectral
        return map_named(
            lambda path, x, d: d if path in views else unit(x)[0], g, polar
        )

    return directions


class NormCurvature(NamedTuple):
    """How a loss bends in a norm.

    Attributes:
        curvature: max <D, H D> over the unit ball, from below.
        dual_norm: of the gradient.
        along_gradient: <D, H D> of the steepest direction itself.
        direction: the D of `curvature`.
    """

    curvature: jax.Array
    dual_norm: jax.Array
    along_gradient: jax.Array
    direction: PyTree


def curvature_in_norm(
    loss: Loss,
    params: PyTree,
    *args: Any,
    norm: NormName = "spectral",
    matrix_specs: Mapping[str, MatrixSpec] | None = None,
    num_starts: int = 4,
    num_iters: int = 10,
    num_matvecs: int = 20,
    key: jax.Array | None = None,
    **how: Unpack[HowToMultiply],
) -> NormCurvature:
    """The largest curvature <D, H D> over the unit ball of a norm, from below.

    A power-type iteration, D <- steepest(H D + c D), from the steepest direction of the
    gradient and from random ones. c is minus the smallest eigenvalue of H, by Lanczos,
    where that is negative, so that no step goes down among corners of the ball. For
    `l2` it is lambda_max.

    Args:
        norm, matrix_specs: as in `steepest`.
        num_starts: besides the gradient's, 0 or more. Static.
        num_iters: of each start. Static.
        num_matvecs: of the smallest eigenvalue. Static.
        key: of random starts.
        how: see `HowToMultiply`.

    Cost: (num_starts + 1) (num_iters + 1) + num_matvecs Hessian-vector products and as
    many steepest directions; `num_matvecs` trees of memory.
    References: `jopt.linalg.largest_form_in_ball`; the use for stability is derived.

    >>> def loss(w):
    ...     return (2 * w[0] ** 2 + 2 * w[1] ** 2 - 2 * w[0] * w[1]) / 2
    >>> found = curvature_in_norm(loss, jnp.array([1.0, 0.5]), norm="sign")
    >>> round(float(found.curvature), 3), float(found.dual_norm)
    (6.0, 1.5)
    """
    lmo = steepest(norm, matrix_specs)
    matvec = hessian_operator(loss, params, *args, **how)
    slope = gradient(loss, params, *args, **how)
    key = jax.random.key(0) if key is None else key
    low = eigsh(
        matvec, params, which="smallest", num_matvecs=num_matvecs, key=key
    ).values[0]
    keys = jax.random.split(jax.random.fold_in(key, 1), max(num_starts, 1))
    begin = [slope, *(normal_like(k, params) for k in keys[:num_starts])]
    starts = jax.tree.map(lambda *rows: jnp.stack(rows), *begin)
    shift = jnp.maximum(-low, 0)
    best = largest_form_in_ball(matvec, lmo, starts, shift=shift, num_iters=num_iters)
    ahead = lmo(widen(slope))
    return NormCurvature(
        best.value,
        tree_inner(slope, ahead),
        tree_inner(ahead, matvec(ahead)),
        best.direction,
    )
