"""Aurora: a polar factor whose rows, or columns, are of one size."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import optax

from jopt.errors import ConfigError
from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    NanPolicy,
    ShapeMode,
    balanced,
    ema,
    guarded,
    polar_map,
    scale_by_shape,
    steepest_descent,
)
from jopt.tree import PyTree


@routed
@takes_options_of(polar_map, descend)
def aurora(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    nesterov: bool = True,
    rounds: int = 2,
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon whose update is semi-orthogonal and balanced along its longer side.

    On the matrices, with C the direction of the momentum as in `jopt.muon`, seen with
    its longer side as rows (m x n, m > n): D = 1 / row norms of C, then `rounds` times
    U = polar(D C), D <- D sqrt(n / m) / row norms of U. The last U is the update, W <-
    W - learning_rate (scale U + weight_decay W). Rows of a semi-orthogonal matrix of
    full rank that are all of one length have that length, sqrt(n / m). A square matrix
    has polar(C). AdamW on everything else.

    Args:
        learning_rate: as in `jopt.muon`.
        beta, nesterov, mu_dtype, scale, nan_policy: as in `jopt.muon`.
        rounds: polar factors for each update, 1 or more. Static, so to be named in
            `static_args` of `optax.inject_hyperparams`, also where it has its default.
        weight_decay, mask, fallback, labels and all others: as in `jopt.muon`, but
            there is no `distribute="gram"`.

    State: one momentum for each matrix, and the fallback's state for the rest.
    Cost: `rounds` times the iterations of `jopt.muon` where matrices are not square.
    Fails: as `jopt.muon`; `ConfigError` for fewer rounds than 1.

    References: Tilde Research 2026, Aurora (blog and code). Row norms have no epsilon;
    a zero row stays zero.

    >>> import jax.numpy as jnp
    >>> tx = aurora(1.0, scale="none", method="svd")
    >>> g = {"mlp": jnp.array([[3.0, 0.01, 0.0], [0.0, 0.01, 2.0]])}
    >>> u = tx.update(g, tx.init(g), g)[0]["mlp"]
    >>> jnp.linalg.norm(u, axis=0).round(2)  # That of polar(g): 1, 0.01, 1.
    Array([0.84, 0.77, 0.84], dtype=float32)
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(
            f"rounds of aurora is {rounds!r}; it has to be an int of 1 or more: under "
            "optax.inject_hyperparams name it in static_args"
        )
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(
        partial(balanced, rounds=rounds), **where, **options_of(polar_map, options)
    )
    rule = ema(beta, nesterov=nesterov, mu_dtype=mu_dtype)
    return descend(
        steepest_descent(guarded(rule, polar.views, nan_policy), polar),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
