"""Rows that replicas keep while they are pulled, for their next gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jopt.training._plan import Plan
from jopt.training._source import Batch, Source, row_share_of
from jopt.transforms import LocalUpdates

# R replicas, B rows of a batch.

_CHUNK = 1024  # steps whose coins are tossed at once


def source_of(plan: Plan) -> Source:
    """The data of a run, as its replicas read it.

    Fails: `DataError` where there is none.
    """
    source, own = plan.task.load(plan.config), plan.config.local_updates
    if plan.replicas is None or own.pseudo_sync_consumes_batch is not False:
        return source
    rows, share = plan.config.train.batch_size, row_share_of(plan.config)
    return KeptRows(source, plan.replicas.local, rows, **share)


class KeptRows:
    """A source in which a replica that is pulled keeps its rows.

    The gradient of replica r after n others of its own is on block r of batch n. The
    cursor still counts the rows of all steps, and coins are a function of key, step and
    replica, so a batch is still a function of the cursor alone.

    Args:
        source: of whole batches.
        local: the method.
        rows: B.
        process_index, process_count: which part of a batch this process has.
    """

    def __init__(
        self,
        source: Source,
        local: LocalUpdates,
        rows: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self._source = source
        self._rows = rows
        self._local = local
        here = rows // process_count
        first = process_index * here
        # The replica of each row of this process.
        self._owners = np.arange(first, first + here) // (rows // local.num_replicas)
        # Gradients of each replica before each chunk of steps.
        self._before = [np.zeros(local.num_replicas, np.int64)]

    @property
    def domain_names(self) -> tuple[str, ...]:
        """As of the source."""
        return self._source.domain_names

    @property
    def epoch_size(self) -> int:
        """As of the source."""
        return self._source.epoch_size

    def batch(self, cursor: int, rows: int | None = None) -> Batch:
        """See `Source`; whole batches from a multiple of B on."""
        assert rows in (None, self._rows) and cursor % self._rows == 0
        numbers = self.gradients(cursor // self._rows)[self._owners]
        found: Batch = {}
        for number in np.unique(numbers):
            mine = numbers == number
            part = self._source.batch(int(number) * self._rows, self._rows)
            for name, leaf in part.items():
                found.setdefault(name, np.empty_like(leaf))[mine] = leaf[mine]
        return found

    def gradients(self, step: int) -> np.ndarray:
        """int (R,): how many each replica has taken in so many steps."""
        chunk, rest = divmod(step, _CHUNK)
        while len(self._before) <= chunk:
            last = len(self._before) - 1
            self._before.append(self._before[-1] + self._took(last).sum(axis=0))
        return self._before[chunk] + self._took(chunk)[:rest].sum(axis=0)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one source for a process)
    def _took(self, chunk: int) -> np.ndarray:
        """bool (_CHUNK, R): who takes a gradient, by step."""
        first = chunk * _CHUNK
        steps = np.arange(first, first + _CHUNK)
        pulled = np.asarray(self._coins(jnp.asarray(steps, jnp.int32)))
        warm = steps < self._local.settings.rounds.warmup
        return ~pulled | warm[:, None]

    @functools.cached_property
    def _coins(self) -> jax.stages.Wrapped:
        return jax.jit(jax.vmap(self._local.coins_at))

    def evaluation(self, split: str = "validation", *, whole: bool) -> Iterator[Batch]:
        """As of the source."""
        return self._source.evaluation(split, whole=whole)

    def corrupted(
        self, split: str = "validation", names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, int, Iterator[Batch]]]:
        """As of the source."""
        return self._source.corrupted(split, names)

    def shifted(
        self, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray | None, Iterator[Batch]]]:
        """As of the source."""
        return self._source.shifted(names)
