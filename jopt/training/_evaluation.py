"""Evaluation: exact sums over a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jopt.training._state import TrainState

Sums = Callable[..., dict[str, jax.Array]]
Totals = dict[str, Any]  # name -> float64 number or array


def evaluate(
    sums: Sums,
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> dict[str, float]:
    """The means of a model over every token of the batches; see `means`."""
    return means(totals(sums, state, batches, put))


def totals(
    sums: Sums,
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> Totals:
    """The sums of all batches, added up in float64 on the host.

    `sums` is jitted and returns the sums of one batch.
    """
    added: Totals = {}
    pending = None
    for batch in batches:
        # The next batch is dispatched before the last one is read.
        current = sums(state.params, state.model_state, put(batch))
        if pending is not None:
            _add(added, pending)
        pending = current
    if pending is not None:
        _add(added, pending)
    return added


def means(added: Totals) -> dict[str, float]:
    """Means over every unmasked token: loss in nats, accuracy, and bits per byte.

    A token is a byte here, so bits per byte is the loss over log 2.
    """
    tokens = max(float(added["tokens"]), 1.0)
    loss = float(added["nats"]) / tokens
    return {
        "eval/loss": loss,
        "eval/bits_per_byte": loss / math.log(2.0),
        "eval/accuracy": float(added["correct"]) / tokens,
        "eval/tokens": float(added["tokens"]),
    }


def domain_means(added: Totals, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Bits per byte and tokens of each domain that has tokens."""
    return {
        name: (float(nats / tokens) / math.log(2.0), float(tokens))
        for name, nats, tokens in zip(
            names, added["domain_nats"], added["domain_tokens"], strict=True
        )
        if tokens
    }


def _add(added: Totals, sums: dict[str, jax.Array]) -> None:
    for name, value in jax.device_get(sums).items():
        added[name] = added.get(name, 0.0) + np.asarray(value, np.float64)
