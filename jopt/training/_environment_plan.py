"""What an algorithm over environments makes of a run's oracle and optimizer."""

from __future__ import annotations

import optax
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.models import Model
from jopt.optimizers import Optimizer
from jopt.training._algorithm_keys import ALGORITHM, TABLE, algorithm_settings
from jopt.training._environment_task import EnvironmentTask
from jopt.training._environments import environment_oracle, rows_of_environments
from jopt.training._oracles import Oracle
from jopt.training._task import Task
from jopt.training.algorithms import build_algorithm

# Extra arguments that the oracle of environments has; inside Fish, which calls an
# optimizer at parameters of its own, those that go with all of them.
_GIVEN = frozenset({"value", "grad_fn", "key"})
_GIVEN_AROUND = frozenset({"value", "key"})


class Environments:
    """The algorithm of a config, for a model and the environments of a task.

    Fails: `ConfigError` for settings that do not fit.
    """

    def __init__(self, config: ConfigDict, task: EnvironmentTask, model: Model) -> None:
        own = config.objective.algorithm
        self._name: str = own.name
        try:
            self._algorithm = build_algorithm(
                own.name, model, algorithm_settings(config)
            )
        except ConfigError as error:
            raise ConfigError(f"{TABLE}: {error}") from error
        count = len(task.trained)
        oracle = environment_oracle(self._algorithm, count)
        self.oracle: Oracle = rows_of_environments(oracle, count)

    def around(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer, or what the algorithm makes of it.

        Fails: `ConfigError` where it needs what an oracle of environments has not.
        """
        around = self._algorithm.around
        given = _GIVEN if around is None else _GIVEN_AROUND
        if missing := optimizer.needs - given:
            raise ConfigError(
                f"optim.rules: the optimizer needs {', '.join(sorted(missing))}, which "
                f"{ALGORITHM} = {self._name!r} does not give; take another"
            )
        if around is None:
            return optimizer
        return optimizer._replace(
            tx=optax.with_extra_args_support(around(optimizer.tx)),
            needs=optimizer.needs | {"environment_grad_fn"},
        )


def planned_environments(
    config: ConfigDict, task: Task, model: Model
) -> Environments | None:
    """What there is to do where the task is one over environments."""
    if not isinstance(task, EnvironmentTask):
        return None
    return Environments(config, task, model)
