"""What an environment and a task over several of them are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.data._examples import Labelled, TrainExamples
from jopt.data.environments._holdout import (
    HOLDOUT,
    as_published,
    holdout,
    seed_hash,
)
from jopt.errors import DataError

PARTS = ("in", "out")  # of an environment: trained on unless it is a test; held out


def train_envs(count: int, test_envs: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the environments that are trained on.

    >>> train_envs(4, (1,))
    (0, 2, 3)
    """
    return tuple(e for e in range(count) if e not in test_envs)


class Environment(NamedTuple):
    """A data set of a task.

    Attributes:
        name: the same in tables and figures.
        source: its examples; `source.rows(index)` is a batch of any of them.
        numbers: which examples of the set that was dealt these are, int64 (N,); None
            where nothing was dealt.
        held_out: which ones a published split holds out, bool (N,); None where a fifth
            of them is drawn.
    """

    name: str
    source: Labelled
    numbers: np.ndarray | None = None
    held_out: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some examples of a source, by their numbers there; nothing is copied.

    >>> from jopt.data import Examples
    >>> source = Examples(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32),
    ...                   np.zeros(3, np.int32), ("a", "b", "c"), ("all",))
    >>> Part(source, np.array([2, 0])).rows(np.array([0]))["targets"]
    array([2], dtype=int32)
    """

    source: Labelled
    index: np.ndarray

    @property
    def size(self) -> int:
        """N."""
        return len(self.index)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.source.domain_names

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Examples.rows`."""
        return self.source.rows(self.index[index_B], change)


class Parts(NamedTuple):
    """The two parts of an environment, without a common example.

    Attributes:
        inside: what a run that does not test here trains on, 80 % unless a split is
            published.
        outside: what is held out.
    """

    inside: Part
    outside: Part


@dataclasses.dataclass(frozen=True, eq=False)
class DomainTask:
    """One question over several environments of the same inputs and classes.

    Attributes:
        name: the key of `TASKS`.
        envs: all environments, those for training and those for the test.
        input_shape: of one example.
        num_classes: C.
        metric: what a run is judged by: `accuracy`, larger is better, or
            `bits_per_byte`, smaller is.
        default_test_envs: never trained on, unless a study names others.
        num_steps, eval_every: of a run.
        chance: what a run is judged by where it has learnt nothing and is left out of
            analyses; an accuracy of 0 keeps all.
    """

    name: str
    envs: tuple[Environment, ...]
    input_shape: tuple[int, ...]
    num_classes: int
    metric: str = "accuracy"
    default_test_envs: tuple[int, ...] = (0,)
    num_steps: int = 600
    eval_every: int = 100
    chance: float = 0.0

    @property
    def default_train_envs(self) -> tuple[int, ...]:
        return train_envs(len(self.envs), self.default_test_envs)

    def parts(self, trial_seed: int, *, fraction: float = HOLDOUT) -> tuple[Parts, ...]:
        """Every environment, split once; the same for all methods of a trial seed.

        Where a published split says what is held out, `fraction` has no say and the
        seed gives the order alone.

        Fails: `DataError` for an environment that is too small to be split.
        """
        return tuple(
            _parts(env, trial_seed, number, fraction)
            for number, env in enumerate(self.envs)
        )

    def streams(
        self,
        trial_seed: int,
        order_seed: int,
        test_envs: tuple[int, ...],
        *,
        rows: int = 1,
    ) -> tuple[TrainExamples, ...]:
        """An endless shuffled row of the `inside` of each training environment.

        Example i of a row is a pure function of (order_seed, i).

        Args:
            rows: of each environment in a batch.

        Fails: `DataError` that names an environment with fewer examples, which would be
        in a batch twice.
        """
        parts = self.parts(trial_seed)
        trained = train_envs(len(self.envs), test_envs)
        for e in trained:
            if parts[e].inside.size < rows:
                raise DataError(
                    f"environment {self.envs[e].name} has {parts[e].inside.size} "
                    f"examples to train on, fewer than the {rows} rows of it in a "
                    "batch; take a smaller batch (in a run train.batch_size, which is "
                    f"of {len(trained)} environments), or leave the environment out"
                )
        return tuple(
            TrainExamples(parts[e].inside, seed_hash(order_seed, e)) for e in trained
        )


def _parts(env: Environment, trial_seed: int, number: int, fraction: float) -> Parts:
    if env.held_out is None:
        size = env.source.size
        inside, outside = holdout(size, trial_seed, number, fraction=fraction)
    else:
        inside, outside = as_published(env.held_out, trial_seed, number)
    if not len(inside) or not len(outside):
        raise DataError(
            f"environment {env.name} has {env.source.size} examples; at least "
            f"{int(np.ceil(1 / fraction))} are needed to hold out {fraction:.0%}"
        )
    return Parts(Part(env.source, inside), Part(env.source, outside))
