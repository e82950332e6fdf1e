"""Spectral descent: the steepest direction in the operator norm."""

from __future__ import annotations

import jax
import optax

from jopt.linalg import Coefficients, Engine, MethodName, Normalization
from jopt.transforms._momentum import Momentum, ema, steepest_descent
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._polar import guarded, polar_map
from jopt.transforms._specs import MatrixSpecs
from jopt.tree import PyTree


def scale_by_orthogonalization(
    beta: optax.ScalarOrSchedule = 0.95,
    *,
    nesterov: bool = True,
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    momentum: Momentum | None = None,
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> optax.GradientTransformationExtraArgs:
    """Replaces the momentum of each matrix by a nearly semi-orthogonal matrix.

    M <- beta M + (1 - beta) G, C = beta M + (1 - beta) G (Nesterov) or M, and the
    update is U V^T for C = U S V^T, as accurately as `jopt.orthogonalize` does it. U
    V^T maximises <C, D> over all D of operator norm 1. The scale of the gradients has
    no effect. All matrices of one shape, up to transposition, go through one batched
    call.

    Args:
        beta: decay of the momentum, in [0, 1): a number, traced or not, or a schedule.
            All others are static.
        nesterov: looks one step ahead.
        steps, method, coeffs, normalization, compute_dtype, precision: as in
            `jopt.orthogonalize`.
        matrix_specs: how parameters are seen as matrices, in any form that `read_specs`
            takes: by path, as a tree, as a function, or Optax's dimension numbers. What
            is not declared: two axes are (in, out), four axes under a path with the
            word `conv` are (height, width, in, out), and anything else is an error.
        mu_dtype: dtype of the stored momentum; None is that of the parameter. With
            bfloat16 parameters, float32 keeps small gradients from being rounded away.
        nan_policy: a matrix whose gradient has NaN or infinity gets a NaN update and
            momentum with `propagate`; with `zero` its update is 0 and its momentum
            stays as it was. The other matrices are untouched either way.
        momentum: a rule to use instead of `ema(beta, nesterov=..., mu_dtype=...)`.
        shardings: where the parameters lie on a mesh: a tree like them, or a mapping
            from paths, of `NamedSharding` or of arrays that have one. None leaves it to
            the compiler, which is slow: it moves matrices for every product.
        distribute: what is done about it, with the same result.

            - `stack`: the devices of all mesh axes but `replica` share the matrices,
              each of which goes to one of them and back: two collectives for all
              matrices of one shape and orientation, and none in between. Matrices
              travel in bfloat16 if that is the `compute_dtype`.
            - `gram`: where only the longer side of matrices is spread, they stay, and
              their Gram matrices are summed over devices, once at the start and at each
              restart. Sends less where matrices are long or fewer than devices; all
              devices do the work on small matrices. The others are stacked.
            - `replicate`: every device gets and maps all matrices. A reference.

            The update may be called under `jit`, with whole arrays, or inside
            `shard_map` or `pmap` over the axes of the mesh, with shards.

    State: `MomentumState`, one array for each parameter.
    Fails: `ShapeError` at init, naming every parameter that cannot be seen as matrices;
    `ConfigError` for an unknown choice.

    References: Jordan et al. 2024, Muon (blog and code); Carlson, Collins, Hsieh, Carin
    and Cevher 2015, Preconditioned spectral descent for deep learning (NeurIPS). The
    momentum has no bias correction, which changes nothing here.

    >>> import jax.numpy as jnp
    >>> tx = scale_by_orthogonalization(coeffs="polar_express")
    >>> params = {"w": jnp.zeros((2, 2))}
    >>> grads = {"w": jnp.array([[3e-9, 0.0], [0.0, 1e-9]])}
    >>> tx.update(grads, tx.init(params))[0]["w"].round(1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    polar = polar_map(
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        matrix_specs=matrix_specs,
        shardings=shardings,
        distribute=distribute,
    )
    rule = momentum or ema(beta, nesterov=nesterov, mu_dtype=mu_dtype)
    return steepest_descent(guarded(rule, polar.views, nan_policy), polar)
