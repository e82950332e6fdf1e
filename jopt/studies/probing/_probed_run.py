"""A run folder as a probe reads it: its checkpoints, and the batches after them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopt.errors import CheckpointError, ConfigError
from jopt.training._reopened import reopened

if TYPE_CHECKING:
    import jax

    from jopt.training._checkpoints import Checkpoints
    from jopt.training._plan import Plan
    from jopt.training._source import Source
    from jopt.training._state import TrainState


@dataclasses.dataclass(frozen=True)
class ProbedRun:
    """What a probe needs of a run; nothing in the folder is changed.

    Attributes:
        folder: of the run.
        plan: model, objective, optimizer and mesh, as the run's config says.
        source: its data.
        checkpoints: opened for reading.
    """

    folder: Path
    plan: Plan
    source: Source
    checkpoints: Checkpoints

    def states(self, steps: Sequence[int] = ()) -> Iterator[TrainState]:
        """The states of the committed checkpoints, oldest first, or of some of them.

        Fails: `CheckpointError` without checkpoints, or for a step that has none.
        """
        present = self.checkpoints.steps()
        missing = [step for step in steps if step not in present]
        if missing or not present:
            shown = ", ".join(map(str, present)) or "none"
            what = f"checkpoint {missing[0]}" if missing else "checkpoint"
            raise CheckpointError(f"{self.folder} has no {what}; present: {shown}")
        for step in present:
            if not steps or step in steps:
                yield self.checkpoints.restore(step, self.plan.shapes)

    def windows(
        self, state: TrainState, count: int, skip: int = 0
    ) -> Iterator[dict[str, jax.Array]]:
        """Training batches of the run's size that the state has not seen yet.

        Args:
            count: how many.
            skip: so many that come before them.
        """
        size = self.plan.config.train.batch_size
        for number in range(skip, skip + count):
            cursor = int(state.cursor) + number * size
            yield self.plan.put(self.source.batch(cursor))

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.config.train.steps

    @property
    def views(self) -> dict[str, Any]:
        """path -> matrix view, of all weights that have one."""
        specs = self.plan.model.matrix_specs
        return {path: spec for path, spec in specs.items() if spec is not None}


@contextlib.contextmanager
def open_run(folder: Path) -> Iterator[ProbedRun]:
    """Reads a run's config and builds what it trained.

    Fails: `ConfigError` where there is no run, one that this machine cannot build, or
    one with local updates or with an algorithm over environments.
    """
    with reopened(folder) as (plan, source, checkpoints):
        if plan.replicas is not None:
            raise ConfigError(
                f"{folder} has {plan.replicas.local.num_replicas} replicas "
                f"(local_updates.name = {plan.config.local_updates.name!r}), and a "
                "probe follows one model with its optimizer; probe a run without them"
            )
        algorithm = plan.config.objective.algorithm.name
        if algorithm != "none":
            raise ConfigError(
                f"{folder} trains over environments (objective.algorithm.name = "
                f"{algorithm!r}), and a probe has the loss of a plain batch; probe a "
                "run without it"
            )
        yield ProbedRun(folder, plan, source, checkpoints)
