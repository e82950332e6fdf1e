"""Evaluation: exact sums over a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jopt.training._state import TrainState


def evaluate(
    sums: Callable[..., dict[str, jax.Array]],
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> dict[str, float]:
    """Means over every unmasked token: loss in nats, accuracy, and bits per byte.

    `sums` is jitted and returns the sums of one batch; totals are float64 on the host.
    A token is a byte here, so bits per byte is the loss over log 2.
    """
    totals: dict[str, float] = {}
    pending = None
    for batch in batches:
        # The next batch is dispatched before the last one is read.
        current = sums(state.params, state.model_state, put(batch))
        if pending is not None:
            _add(totals, pending)
        pending = current
    if pending is not None:
        _add(totals, pending)
    tokens = max(totals["tokens"], 1.0)
    loss = totals["nats"] / tokens
    return {
        "eval/loss": loss,
        "eval/bits_per_byte": loss / math.log(2.0),
        "eval/accuracy": totals["correct"] / tokens,
        "eval/tokens": totals["tokens"],
    }


def _add(totals: dict[str, float], sums: dict[str, jax.Array]) -> None:
    for name, value in jax.device_get(sums).items():
        if value.ndim == 0:
            totals[name] = totals.get(name, 0.0) + float(value)
