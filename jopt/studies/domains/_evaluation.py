"""Accuracy, calibration and loss of a model on both parts of every environment."""

# E environments; N examples of each, filled up; C classes.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data._stream import filled
from jopt.data.environments import PARTS, DomainTask
from jopt.models import Model
from jopt.objectives.calibration import (
    bin_sums,
    cross_entropy,
    expected_error,
    hits,
    masked_figure,
    scores,
)

FIGURES = ("acc", "ece", "nll")


class Stack(NamedTuple):
    """All environments of a task as arrays (E, N, ...).

    Attributes:
        inputs, targets: zeros where an environment has fewer than N; targets of a text
            have an axis of positions, (E, N, T).
        masks: by part, 1 where an example is in it.
    """

    inputs: jax.Array
    targets: jax.Array
    masks: dict[str, jax.Array]


def stacked(task: DomainTask, trial_seed: int, most: int | None = None) -> Stack:
    """The examples of a task and their parts, in memory.

    Args:
        most: of each part of each environment, which are in a random order.
    """
    chosen = [[part.index[:most] for part in parts] for parts in task.parts(trial_seed)]
    longest = max(sum(map(len, own)) for own in chosen)
    batches = [
        filled(env.source.rows(np.concatenate(own)), longest)
        for env, own in zip(task.envs, chosen, strict=True)
    ]
    masks = np.zeros((len(PARTS), len(chosen), longest), np.float32)
    for e, (inside, outside) in enumerate(map(len, own) for own in chosen):
        masks[0, e, :inside] = masks[1, e, inside : inside + outside] = 1

    def of_all(name: str) -> jax.Array:
        return jnp.asarray(np.stack([batch[name] for batch in batches]))

    return Stack(
        inputs=of_all("inputs"),
        targets=of_all("targets"),
        masks=dict(zip(PARTS, jnp.asarray(masks), strict=True)),
    )


def evaluator(
    model: Model, bins: int = 15
) -> Callable[[Any, Any, Stack], dict[str, jax.Array]]:
    """`evaluate(params, model_state, stack)`: figure by name of part, (E,) each.

    Names are `in_acc`, `in_ece` and so on; ECE has `bins` bins of equal width, `nll` is
    in nats. Each position of a text counts as an example.
    """

    def of_part(
        logits_NC: jax.Array, targets_N: jax.Array, mask_N: jax.Array
    ) -> tuple[jax.Array, ...]:
        confidences = scores(jax.nn.softmax(logits_NC), targets_N)
        sums = bin_sums(*confidences, num_bins=bins, mask=mask_N)
        return (
            masked_figure(hits(logits_NC, targets_N), mask_N),
            expected_error(sums),
            masked_figure(cross_entropy(logits_NC, targets_N), mask_N),
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
            logits = logits.astype(jnp.float32).reshape(-1, logits.shape[-1])
            positions = targets.size // len(targets)
            found = {
                part: of_part(logits, targets.ravel(), jnp.repeat(mask, positions))
                for part, mask in masks.items()
            }
            return {
                f"{part}_{figure}": value
                for part, own in found.items()
                for figure, value in zip(FIGURES, own, strict=True)
            }

        return jax.lax.map(of_environment, tuple(stack))

    return evaluate
