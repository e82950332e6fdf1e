"""What an objective returns beside its value."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Aux(NamedTuple):
    """Everything of one evaluation that is not differentiated.

    Attributes:
        metrics: scalars by name, float32.
        model_state: the model's state after this batch.
        taps: the activations asked for, by tap name.
    """

    metrics: dict[str, jax.Array]
    model_state: Any
    taps: dict[str, jax.Array]
