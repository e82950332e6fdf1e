"""The steepest way up in the operator norm of each matrix."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import Coefficients, Engine, MethodName, normalize
from jopt.transforms._ascent import (
    AscentRule,
    Leaves,
    Mask,
    ascent_rule,
    check_radius,
)
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._polar import polar_map
from jopt.transforms._specs import MatrixSpecs
from jopt.tree import PyTree


def spectral_ascent(
    rho: optax.ScalarOrSchedule = 0.015,
    rho_vector: jax.typing.ArrayLike | None = None,
    *,
    mask: Mask = None,
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> AscentRule:
    """epsilon = rho U V^T for each matrix d = U S V^T, the geometry of Muon.

    It is the steepest way up in the largest of all operator norms. Parameters without a
    matrix view are climbed along d / ||d||, each on its own, by `rho_vector`.

    Args:
        rho: radius of the operator norm of each matrix. 0.015 is a value that is
            quoted, from a grid of 0.003 to 0.3; the norm of the whole epsilon is rho
            times the root of the sum of all ranks.
        rho_vector: radius of the Euclidean norm of each other parameter; None is that
            of the matrices, at every step. May be traced.
        mask: as in `l2_ascent`.
        steps, method, coeffs, compute_dtype, matrix_specs, shardings, distribute: as in
            `jopt.scale_by_orthogonalization`; all matrices of one shape are one batched
            call. A parameter that nothing says the view of counts as a vector. Static.

    State: none. Cost: one polar factor for each matrix.

    Fails: `ConfigError` and `ShapeError` as `scale_by_orthogonalization`, but for
    parameters without a view.

    References: none that is published; see `docs/sharpness_aware.md`.

    >>> rule = spectral_ascent(0.1, 0.2, method="svd")
    >>> d = {"w": jnp.array([[3.0, 0.0], [0.0, -1.0]]), "b": jnp.array([5.0])}
    >>> epsilon, _ = rule.ascend(d, (), d, rule.radius(0))
    >>> epsilon["w"].round(3).tolist(), epsilon["b"].round(3).tolist()
    ([[0.10000000149011612, 0.0], [0.0, -0.10000000149011612]], [0.20000000298023224])
    """
    check_radius("rho_vector", rho_vector)
    polar = polar_map(
        steps=steps,
        method=method,
        coeffs=coeffs,
        compute_dtype=compute_dtype,
        matrix_specs=matrix_specs,
        shardings=shardings,
        distribute=distribute,
    )
    views = dataclasses.replace(polar.views, others_whole=True)

    def ascend(
        d: Leaves, params: PyTree, state: PyTree, rho: jax.Array
    ) -> tuple[Leaves, PyTree]:
        found = views.specs(jax.tree.map(_if_floating, params))
        specs = {path: spec for path, spec in found.items() if path in d}
        own = dataclasses.replace(polar, views=views.among(specs))
        matrices = {path: d[path] for path in specs}
        factors = own(matrices) if matrices else {}
        vector = rho if rho_vector is None else jnp.asarray(rho_vector)

        def epsilon(path: str, x: jax.Array) -> jax.Array:
            if path in specs:
                return rho.astype(factors[path].dtype) * factors[path]
            return vector * normalize(x.reshape(1, -1)).reshape(x.shape)

        return {path: epsilon(path, x) for path, x in d.items()}, state

    return ascent_rule(ascend, rho, mask=mask)


def _if_floating(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact) else None
