"""The data of a run over environments, by cursor."""

# E training environments; B rows of each.

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jopt import data
from jopt.data.environments import PARTS, DomainTask, Parts, train_envs
from jopt.errors import ConfigError
from jopt.training._source import Batch, nothing, row_share_of


@dataclasses.dataclass(frozen=True)
class EnvironmentSource:
    """Equally many examples of each training environment, and both parts of all.

    Row b E + e of a batch is of training environment e, so that any whole number of E
    rows, on a device or in a process, has every environment. In `domain` 2 e + p is
    part p of environment e, where e counts the test environments as well.

    Attributes:
        config: of the run.
        task: the environments.
        test_envs: numbers of those that are never trained on.
    """

    config: ConfigDict
    task: DomainTask
    test_envs: tuple[int, ...]

    @functools.cached_property
    def share(self) -> dict[str, Any]:
        return row_share_of(self.config)

    @functools.cached_property
    def trained(self) -> tuple[int, ...]:
        """Numbers of the environments that are trained on."""
        return train_envs(len(self.task.envs), self.test_envs)

    @functools.cached_property
    def parts(self) -> tuple[Parts, ...]:
        """Every environment, split once by `data.trial_seed`."""
        return self.task.parts(self.config.data.trial_seed)

    @functools.cached_property
    def streams(self) -> tuple[data.TrainExamples, ...]:
        """An endless row of each training environment."""
        own = self.config
        rows = own.train.batch_size // len(self.trained)
        return self.task.streams(
            own.data.trial_seed, own.seed, self.test_envs, rows=rows
        )

    @property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(f"{env.name}, {part}" for env in self.task.envs for part in PARTS)

    @property
    def epoch_size(self) -> int:
        """Of the smallest training environment, times their number."""
        sizes = [self.parts[e].inside.size for e in self.trained]
        return min(sizes) * len(sizes)

    def batch(self, cursor: int, rows: int | None = None) -> Batch:
        """See `Source`. Cursor and rows count the rows of all environments."""
        rows = rows or self.config.train.batch_size
        count = len(self.streams)
        if cursor % count or rows % count:
            raise ConfigError(
                f"cursor {cursor} and rows {rows}: whole multiples of the {count} "
                "training environments are expected; set train.batch_size to one"
            )
        of_each = [
            stream.batch(cursor // count, rows // count, **self.share)
            for stream in self.streams
        ]
        for e, batch in zip(self.trained, of_each, strict=True):
            batch["domain"] = np.full_like(batch["domain"], 2 * e)
        return {
            name: np.stack([batch[name] for batch in of_each], axis=1).reshape(
                -1, *of_each[0][name].shape[1:]
            )
            for name in of_each[0]
        }

    def evaluation(self, split: str = "validation", *, whole: bool) -> Iterator[Batch]:
        """Both parts of every environment, one after the other.

        A fixed subset has `eval.batches` batches of each part.

        Fails: `ConfigError` for another split: what is held out follows from
        `data.trial_seed`, and test environments are among all.
        """
        if split != "validation":
            raise ConfigError(
                f"a run over environments has no split {split!r}; `validation` has "
                "both parts of every environment, those of the test as well"
            )
        own = self.config.eval
        every = (part for parts in self.parts for part in parts)
        for domain, part in enumerate(every):
            batches = data.example_batches(
                part,
                own.batch_size,
                max_batches=None if whole else own.batches,
                **self.share,
            )
            for batch in batches:
                yield batch | {"domain": np.full_like(batch["domain"], domain)}

    def corrupted(
        self, split: str = "validation", names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, int, Iterator[Batch]]]:
        """None: the shifts of a run over environments are its environments."""
        return nothing(names, "a run over environments has no corrupted copies")

    def shifted(
        self, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray | None, Iterator[Batch]]]:
        """None: see `corrupted`."""
        return nothing(names, "a run over environments has no other test sets")
