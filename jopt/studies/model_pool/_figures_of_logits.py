"""Accuracy and calibration of one model, from its logits on all environments."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data.environments import PARTS
from jopt.models import Model
from jopt.objectives.calibration import (
    bin_sums,
    fit_temperature,
    scores,
    signed_gap,
)
from jopt.studies.domains._evaluation import FIGURES, Stack, evaluator

# E environments; N examples of each, filled up; C classes.

BINS = 10


class Record(NamedTuple):
    """One evaluation.

    Attributes:
        step: after which.
        environments: `step` and `env{e}_{in,out}_{acc,ece,nll}`, for selection.
        figures: over environments; see `record_of`.
    """

    step: int
    environments: dict[str, float]
    figures: dict[str, float]


def record_of(step: int, logits_ENC: jax.Array, stack: Stack, test_env: int) -> Record:
    """The figures of logits.

    `id_acc`, `id_ece`, `id_nll` are means over the training environments of the parts
    held out; `ood_acc`, `ood_ece`, `ood_nll` over both parts of the test environment.
    ECE has 10 bins. `ood_gap` is mean confidence minus accuracy there. `temperature`
    is fitted to the held-out parts of the training environments, all together;
    `id_ece_scaled` and `ood_ece_scaled` are with it, `ood_ece_oracle` is with a
    temperature that was fitted to the test environment itself. Where logits are not
    finite, figures are NaN.
    """
    found, oracle, scaled = (
        jax.tree.map(np.asarray, x) for x in _figures(logits_ENC, stack, test_env)
    )
    environments = {
        f"env{e}_{part}_{name}": float(found[f"{part}_{name}"][e])
        for e in range(len(logits_ENC))
        for part in PARTS
        for name in FIGURES
    }
    means = {
        f"{side}_{name}": _mean(found, name, test_env, side)
        for side in ("id", "ood")
        for name in FIGURES
    }
    figures = {
        **means,
        "ood_gap": float(found["ood_gap"]),
        "temperature": float(found["temperature"]),
        "id_ece_scaled": _mean(scaled, "ece", test_env, "id"),
        "ood_ece_scaled": _mean(scaled, "ece", test_env, "ood"),
        "ood_ece_oracle": _mean(oracle, "ece", test_env, "ood"),
    }
    return Record(step, {"step": step, **environments}, figures)


def _mean(found: Any, name: str, test_env: int, side: str) -> float:
    if side == "ood":
        return float(np.mean([found[f"{part}_{name}"][test_env] for part in PARTS]))
    return float(np.mean(np.delete(found[f"out_{name}"], test_env)))


@functools.partial(jax.jit, static_argnums=2)
def _figures(
    logits_ENC: jax.Array, stack: Stack, test_env: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
    """As they are, with the oracle's temperature, and with that of the ID parts."""
    measure = evaluator(_OF_LOGITS, BINS)
    given = stack._replace(inputs=logits_ENC)
    number_E1 = jnp.arange(len(logits_ENC))[:, None]
    inside = jnp.where(number_E1 == test_env, 0.0, stack.masks["out"])
    outside = jnp.where(number_E1 == test_env, sum(stack.masks.values()), 0.0)
    logits, targets = (_flat(x) for x in (logits_ENC, stack.targets))
    temperature, oracle = (
        fit_temperature(logits, targets, mask=_flat(mask)) for mask in (inside, outside)
    )
    confidences = scores(jax.nn.softmax(logits), targets)
    bins = bin_sums(*confidences, num_bins=BINS, mask=_flat(outside))
    more = {"temperature": temperature, "ood_gap": signed_gap(bins)}
    return (
        {**measure({"temperature": 1.0}, {}, given), **more},
        measure({"temperature": oracle}, {}, given),
        measure({"temperature": temperature}, {}, given),
    )


def _flat(x: jax.Array) -> jax.Array:
    """All environments in one row."""
    return x.reshape(-1, *x.shape[2:])


def _divided(params: Any, state: Any, batch: Any, **options: Any) -> Any:
    del options
    return batch["inputs"] / params["temperature"], state, {}


# Its inputs are logits, its parameter is a temperature.
_OF_LOGITS = Model(
    init=lambda key, batch: ({"temperature": jnp.ones(())}, {}),
    apply=_divided,
    matrix_specs={},
    taps={},
    tap_names=(),
    flops_per_token=lambda seq_len: 0,
)
