"""Muon: momentum, orthogonalised, on the matrices; another optimizer elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import optax

from jopt.errors import ConfigError
from jopt.linalg import Coefficients, Engine, MethodName, Normalization
from jopt.optimizers._chain import Mask, descend, keep_dtype
from jopt.optimizers._labels import FALLBACK, SPECTRAL, describe_labels, label_params
from jopt.transforms import (
    Distribute,
    MatrixSpecs,
    ShapeMode,
    scale_by_orthogonalization,
    scale_by_shape,
)
from jopt.tree import PyTree


def muon_matrices(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    nesterov: bool = True,
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    scale: ShapeMode = "match_rms_adamw",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask = None,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: Literal["propagate", "zero"] = "propagate",
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> optax.GradientTransformationExtraArgs:
    """The spectral chain of `muon`, for parameters that are all matrices.

    W <- W - learning_rate (scale O + weight_decay W), with O the orthogonalised
    momentum. The arguments are those of `muon`.

    Fails: `ShapeError` at init for a parameter that cannot be seen as matrices.

    >>> import jax.numpy as jnp
    >>> w = {"w": jnp.eye(2)}
    >>> tx = muon_matrices(0.1, scale="none", coeffs="polar_express")
    >>> (-10 * tx.update(w, tx.init(w), w)[0]["w"]).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    orthogonalization = scale_by_orthogonalization(
        beta,
        nesterov=nesterov,
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        matrix_specs=matrix_specs,
        mu_dtype=mu_dtype,
        nan_policy=nan_policy,
        shardings=shardings,
        distribute=distribute,
    )
    return descend(
        orthogonalization,
        scale_by_shape(scale, matrix_specs=matrix_specs, shardings=shardings),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
    )


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    nesterov: bool = True,
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    scale: ShapeMode = "match_rms_adamw",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask = None,
    fallback: optax.GradientTransformation | None = None,
    labels: PyTree | Callable[[PyTree], PyTree] | None = None,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: Literal["propagate", "zero"] = "propagate",
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalised momentum on hidden matrices, AdamW on everything else.

    On the matrices, with momentum M and direction C (Nesterov: beta M + (1 - beta) G):
    O = orthogonalize(C), W <- W - learning_rate (scale O + weight_decay W). Weight
    decay is multiplied by the learning rate and not by the shape scale. Cost beyond
    AdamW: at most 16 M^2 N + 8 M^3 flop for each M x N matrix, M <= N, and step.

    Args:
        learning_rate: a number, traced or not, or a schedule. With the default scale,
            one that suits AdamW; with `scale="jordan"`, 0.02 or so.
        beta: decay of the momentum, in [0, 1): a number, traced or not, or a schedule.
        nesterov, steps, method, coeffs, normalization, compute_dtype, precision,
            mu_dtype, nan_policy: as in `scale_by_orthogonalization`.
        scale: mode of `scale_by_shape`.
        weight_decay: multiplied by the learning rate; a number, traced or not, or a
            schedule.
        mask: which parameters decay, as in `optax.adamw`.
        fallback: optimizer of the other parameters, with its own learning rate. None is
            `optax.adamw(learning_rate, b1=0.9, b2=0.95)` with the same decay and mask.
        labels: `spectral` or `fallback` for each parameter, as a tree or a function of
            the parameters. None is `label_params`, a rule on names: see
            `describe_labels`.
        matrix_specs, shardings, distribute: as in `scale_by_orthogonalization`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams` where they are
    set to a number or a function: nesterov, steps, method, coeffs, normalization,
    compute_dtype, precision, scale, mask, fallback, labels, matrix_specs, mu_dtype,
    nan_policy, shardings, distribute.

    State: one momentum for each matrix, and the fallback's state for the rest.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`.

    References: Jordan et al. 2024, Muon (blog and code); Liu et al. 2025, Muon is
    scalable, arXiv 2502.16982, for the scale and decay. Differences: a more accurate
    default list of coefficients, no epsilon in the norm, routing by name.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = muon(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    spectral = muon_matrices(
        learning_rate,
        beta=beta,
        nesterov=nesterov,
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        scale=scale,
        weight_decay=weight_decay,
        mask=mask,
        matrix_specs=matrix_specs,
        mu_dtype=mu_dtype,
        nan_policy=nan_policy,
        shardings=shardings,
        distribute=distribute,
    )
    if fallback is None:
        fallback = optax.adamw(
            learning_rate, b1=0.9, b2=0.95, weight_decay=weight_decay, mask=mask
        )
    return spectral_and_fallback(spectral, fallback, labels, matrix_specs)


def spectral_and_fallback(
    spectral: optax.GradientTransformation,
    fallback: optax.GradientTransformation,
    labels: PyTree | Callable[[PyTree], PyTree] | None = None,
    matrix_specs: MatrixSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives each parameter to one of two optimizers by its label; see `muon`.

    Extra args that are trees like the parameters are split in the same way.

    >>> import jax.numpy as jnp
    >>> tx = spectral_and_fallback(optax.sgd(1.0), optax.sgd(0.0))
    >>> ones = {"mlp": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> updates, _ = tx.update(ones, tx.init(ones))
    >>> updates["mlp"].tolist(), updates["bias"].tolist()
    ([[-1.0, -1.0], [-1.0, -1.0]], [-0.0, -0.0])
    """

    def labelled(params: PyTree) -> PyTree:
        if labels is None:
            result = label_params(params, matrix_specs)
        else:
            result = labels(params) if callable(labels) else labels
        found = set(jax.tree.leaves(result))
        if not found <= {SPECTRAL, FALLBACK}:
            raise ConfigError(
                f"labels are {SPECTRAL!r} or {FALLBACK!r}, not "
                f"{sorted(map(str, found - {SPECTRAL, FALLBACK}))}"
            )
        if found == {FALLBACK}:
            raise ConfigError(
                "no parameter is labelled 'spectral'; by name they would be:\n"
                + describe_labels(params, matrix_specs)
                + "\nchange the labels, or use the fallback alone"
            )
        return result

    return keep_dtype(
        optax.partition(
            {SPECTRAL: spectral, FALLBACK: fallback},
            labelled,
            mask_compatible_extra_args=True,
        )
    )
