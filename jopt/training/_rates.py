"""The learning rate of each rule, for the records of a run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jopt.optimizers import schedule_from_config


class LearningRates:
    """`optim/<rule>/learning_rate` at every update of a run, computed once.

    A device that is asked for one number between two steps would have to finish the
    step in flight first.
    """

    def __init__(self, config: Any) -> None:
        steps = np.arange(config.train.steps)
        # Compiled as one: each operation by itself takes longer.
        factor = np.asarray(jax.jit(schedule_from_config(config.train))(steps))
        self._factor = np.broadcast_to(factor, steps.shape)
        rules = config.optim.rules
        self._peaks = {name: rules[name].learning_rate for name in config.optim.order}

    def at(self, update: int) -> dict[str, float]:
        """The rates of an update; the first one is number 0."""
        factor = float(self._factor[update])
        return {
            f"optim/{name}/learning_rate": peak * factor
            for name, peak in self._peaks.items()
        }
