"""SpecSign: every matrix takes the kind of step that gains more."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import MatrixSpecs, scale_by_geometry_switch, switch_needs
from jopt.tree import PyTree


@routed
@takes_options_of(scale_by_geometry_switch, descend)
def spec_sign(
    learning_rate: optax.ScalarOrSchedule,
    *,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    criterion: Any = "spec_sign",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Spectral or sign steps on hidden matrices, as their noise and curvature say.

    On the matrices `scale_by_geometry_switch`, then W <- W - learning_rate (U +
    weight_decay W). Updates U have the RMS of AdamW's whatever the geometry, so one
    rate, one that suits AdamW, serves all; with criterion="random", or an `initial`
    that stays, they are the baselines of an adaptive rule.

    Args:
        learning_rate: a number, traced or not, or a schedule.
        weight_decay: multiplied by the learning rate; a number, traced or not, or a
            schedule.
        mask, control, fallback, labels: as in `muon`.
        all others: as in `scale_by_geometry_switch`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams` where they are
    set to a number or a function: those of `muon`, and what the switch names so.

    Extra args: with the default arguments `half_difference`, and `activation_grams`
    where there are any; a rule's `Optimizer.needs` has those of its arguments.

    State, cost, metrics, errors: as `scale_by_geometry_switch`, and the fallback's.

    References: those of `scale_by_geometry_switch`. Differences to LionMuon, whose
    memory it has: steps of one size, and the choice is each matrix's own.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> noise = {"mlp": jnp.full((2, 2), 0.1), "bias": jnp.zeros(2)}
    >>> tx = spec_sign(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params, half_difference=noise)
    >>> round(updates["mlp"][0, 0].item(), 4), updates["bias"].tolist()
    (-0.0057, [-0.0, -0.0])
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    return descend(
        scale_by_geometry_switch(
            criterion, **where, **options_of(scale_by_geometry_switch, options)
        ),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


def spec_sign_needs(arguments: Mapping[str, Any]) -> frozenset[str]:
    """The extra args that `spec_sign` asks for with these keyword arguments.

    >>> sorted(spec_sign_needs({"curvature": "dimension"}))
    ['half_difference']
    """
    known = inspect.signature(spec_sign.matrices).parameters
    criterion, curvature = (
        arguments.get(name, known[name].default) for name in ("criterion", "curvature")
    )
    return switch_needs(criterion, curvature)
