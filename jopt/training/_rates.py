"""The learning rate of each rule, for the records of a run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jopt.optimizers import is_learning_rate, schedule_from_config

# Of a step's metrics: the factor on all rates, where the step was given one.
FACTOR = "optim/learning_rate_factor"


class LearningRates:
    """`optim/<rule>/learning_rate` at every update of a run, computed once.

    A rule that sets others, such as `sign_learning_rate`, has them by their names.

    A device that is asked for one number between two steps would have to finish the
    step in flight first.
    """

    def __init__(self, config: Any) -> None:
        steps = np.arange(config.train.steps)
        # Compiled as one: each operation by itself takes longer.
        factor = np.asarray(jax.jit(schedule_from_config(config.train))(steps))
        self._factors = np.broadcast_to(factor, steps.shape)
        rules = config.optim.rules
        self._peaks = {
            f"optim/{name}/{argument}": value
            for name in config.optim.order
            for argument, value in rules[name].items()
            if is_learning_rate(argument) and value is not None
        }

    def at(self, update: int) -> dict[str, float]:
        """The rates of an update; the first one is number 0."""
        return self.times(float(self._factors[update]))

    def times(self, factor: float) -> dict[str, float]:
        """The rates where the schedule has this factor."""
        return {name: peak * factor for name, peak in self._peaks.items()}
