"""The optimizer of networks that are the material of a study, not its subject."""

from __future__ import annotations

from typing import Any

import optax


def clipped_adam(rate: Any, steps: int) -> optax.GradientTransformation:
    """Clipping to norm 1, Adam, and a cosine from the rate to zero."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
