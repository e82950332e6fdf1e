"""Accuracy, calibration and loss of a model on both parts of every environment."""

# E environments; N examples of each, filled up; C classes.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data.environments import DomainTask
from jopt.models import Model
from jopt.objectives.calibration import (
    bin_sums,
    cross_entropy,
    expected_error,
    hits,
    masked_average,
    scores,
)

FIGURES = ("acc", "ece", "nll")
PARTS = ("in", "out")


class Stack(NamedTuple):
    """All environments of a task as arrays (E, N, ...).

    Attributes:
        inputs, targets: zeros where an environment has fewer than N.
        masks: by part, 1 where an example is in it.
    """

    inputs: jax.Array
    targets: jax.Array
    masks: dict[str, jax.Array]


def stacked(task: DomainTask, trial_seed: int) -> Stack:
    """The examples of a task and their parts, in memory."""
    sizes = [env.source.size for env in task.envs]
    batches = [env.source.rows(np.arange(env.source.size)) for env in task.envs]
    masks = {name: np.zeros((len(sizes), max(sizes)), np.float32) for name in PARTS}
    for e, parts in enumerate(task.parts(trial_seed)):
        for name, part in zip(PARTS, parts, strict=True):
            masks[name][e, part.index] = 1
    return Stack(
        inputs=_filled([batch["inputs"] for batch in batches]),
        targets=_filled([batch["targets"] for batch in batches]),
        masks={name: jnp.asarray(mask) for name, mask in masks.items()},
    )


def evaluator(
    model: Model, bins: int = 15
) -> Callable[[Any, Any, Stack], dict[str, jax.Array]]:
    """`evaluate(params, model_state, stack)`: figure by name of part, (E,) each.

    Names are `in_acc`, `in_ece` and so on; ECE has `bins` bins of equal width.
    """

    def of_part(
        logits_NC: jax.Array, targets_N: jax.Array, mask_N: jax.Array
    ) -> tuple[jax.Array, ...]:
        confidences = scores(jax.nn.softmax(logits_NC), targets_N)
        sums = bin_sums(*confidences, num_bins=bins, mask=mask_N)
        return (
            masked_average(hits(logits_NC, targets_N), mask_N),
            expected_error(sums),
            masked_average(cross_entropy(logits_NC, targets_N), mask_N),
        )

    def evaluate(params: Any, model_state: Any, stack: Stack) -> dict[str, jax.Array]:
        def of_environment(rows: Any) -> dict[str, jax.Array]:
            inputs, targets, masks = rows
            logits, _, _ = model.apply(
                params,
                model_state,
                {"inputs": inputs, "targets": targets},
                key=None,
                train=False,
            )
            logits = logits.astype(jnp.float32)
            return {
                f"{part}_{figure}": value
                for part, mask in masks.items()
                for figure, value in zip(
                    FIGURES, of_part(logits, targets, mask), strict=True
                )
            }

        return jax.lax.map(of_environment, tuple(stack))

    return evaluate


def _filled(arrays: list[np.ndarray]) -> jax.Array:
    longest = max(map(len, arrays))
    return jnp.stack(
        [
            np.pad(x, [(0, longest - len(x))] + [(0, 0)] * (x.ndim - 1))
            for x in map(np.asarray, arrays)
        ]
    )
