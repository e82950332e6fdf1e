"""Pieces of optimizers of networks that are a study's material, not its subject."""

from __future__ import annotations

from typing import Any

import optax


def cosine(rate: Any, steps: int) -> optax.Schedule:
    """From the rate to zero."""
    return optax.cosine_decay_schedule(rate, steps)


def clipped(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Of gradients whose norm is at most 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optimizer)


def clipped_adam(rate: Any, steps: int) -> optax.GradientTransformation:
    """Clipping to norm 1, Adam, and a cosine from the rate to zero."""
    return clipped(optax.adam(cosine(rate, steps)))
