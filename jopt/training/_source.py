"""The data of a run, by cursor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from jopt import data
from jopt.errors import ConfigError, check_choice
from jopt.parallel import row_share
from jopt.training._mesh_keys import mesh_of

Batch = dict[str, np.ndarray]
# One for all runs, so that models of all seeds meet the same images.
_CORRUPTION_SEED = 0


class Source(Protocol):
    """What the loop asks of data."""

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Names of the numbers in a batch's `domain`."""

    @property
    def epoch_size(self) -> int:
        """Examples of an epoch: those from a multiple of it on are each there once."""

    def batch(self, cursor: int, rows: int | None = None) -> Batch:
        """This process's rows of the training batch at the cursor.

        Args:
            cursor: the first example.
            rows: of the whole batch; `train.batch_size` by default.
        """

    def evaluation(self, split: str = "validation", *, whole: bool) -> Iterator[Batch]:
        """Batches of `validation` or `test`: everything once, or a fixed subset."""

    def corrupted(
        self, split: str = "validation", names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, int, Iterator[Batch]]]:
        """(name, severity, batches) of each corrupted copy of a split.

        Args:
            split: `validation` or `test`; a published corrupted test set is what it is.
            names: of corruptions, or `all`; `eval.corruptions` by default.
        """

    def shifted(
        self, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray | None, Iterator[Batch]]]:
        """(name, classes, batches) of other test sets for the same classes.

        Targets are places in `classes`, among which a model chooses; None: all.

        Args:
            names: of shifts, or `all`; `eval.shifts` by default.
        """


@dataclasses.dataclass(frozen=True)
class TextSource:
    """Windows of text."""

    config: ConfigDict
    splits: data.Splits

    @functools.cached_property
    def share(self) -> dict[str, Any]:
        return row_share_of(self.config)

    @functools.cached_property
    def windows(self) -> data.TrainWindows | data.DomainShards:
        own = self.config.data
        train = (self.splits.train, own.seq_len, self.config.seed)
        if own.domain_shards == 1:
            return data.TrainWindows(*train)
        return data.DomainShards(*train, own.domain_shards)

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.splits.train.domain_names

    @property
    def epoch_size(self) -> int:
        return self.windows.windows_per_epoch

    def batch(self, cursor: int, rows: int | None = None) -> Batch:
        rows = rows or self.config.train.batch_size
        return self.windows.batch(cursor, rows, **self.share)

    def evaluation(self, split: str = "validation", *, whole: bool) -> Iterator[Batch]:
        return data.evaluation_batches(
            getattr(self.splits, split),
            self.config.data.seq_len,
            self.config.eval.batch_size,
            stride=self.config.eval.stride,
            max_batches=None if whole else self.config.eval.batches,
            **self.share,
        )

    def corrupted(
        self, split: str = "validation", names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, int, Iterator[Batch]]]:
        """None: only images have corruptions."""
        return nothing(names, "only images have corrupted copies, not text")

    def shifted(
        self, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray | None, Iterator[Batch]]]:
        """None: only images have other test sets."""
        return nothing(names, "only images have shifts, not text")


@dataclasses.dataclass(frozen=True)
class ExampleSource:
    """Labelled examples, of a set of images."""

    config: ConfigDict
    splits: data.ExampleSplits
    images: data.ImageSet

    @functools.cached_property
    def share(self) -> dict[str, Any]:
        return row_share_of(self.config)

    @functools.cached_property
    def examples(self) -> data.TrainExamples:
        augmentation = data.AUGMENTATIONS[self.config.data.augment]
        return data.TrainExamples(self.splits.train, self.config.seed, augmentation)

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.splits.train.domain_names

    @property
    def epoch_size(self) -> int:
        return self.splits.train.size

    def batch(self, cursor: int, rows: int | None = None) -> Batch:
        rows = rows or self.config.train.batch_size
        return self.examples.batch(cursor, rows, **self.share)

    def evaluation(self, split: str = "validation", *, whole: bool) -> Iterator[Batch]:
        return data.example_batches(
            getattr(self.splits, split),
            self.config.eval.batch_size,
            max_batches=None if whole else self.config.eval.batches,
            **self.share,
        )

    def corrupted(
        self, split: str = "validation", names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, int, Iterator[Batch]]]:
        """See `Source`. The random numbers follow from `_CORRUPTION_SEED` alone."""
        clean = getattr(self.splits, split)
        names = self.config.eval.corruptions if names is None else names
        for name in self.images.corruptions if "all" in names else names:
            check_choice("corruption", name, self.images.corruptions)
            for severity in self.config.eval.severities:
                examples = self.images.corrupted(
                    clean,
                    name,
                    severity,
                    _CORRUPTION_SEED,
                    self.config.data.tfds_dir,
                )
                size = self.config.eval.batch_size
                batches = data.example_batches(examples, size, **self.share)
                yield name, severity, batches

    def shifted(
        self, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray | None, Iterator[Batch]]]:
        """See `Source`."""
        names = self.config.eval.shifts if names is None else names
        for name in self.images.shifts if "all" in names else names:
            check_choice("shift", name, self.images.shifts)
            found = self.images.shifts[name](
                self.splits.train.class_names, self.config.data.tfds_dir
            )
            size = self.config.eval.batch_size
            batches = data.example_batches(found.examples, size, **self.share)
            yield name, found.classes, batches


def nothing(names: Sequence[str] | None, reason: str) -> Iterator[Any]:
    """What a source has of what it cannot have; `ConfigError` where some is asked for.

    >>> list(nothing(None, "text has no colours"))
    []
    """
    if names:
        raise ConfigError(reason)
    return iter(())


def row_share_of(config: ConfigDict) -> dict[str, Any]:
    """Which rows of a global batch are this process's."""
    if jax.process_count() == 1:
        return {}
    index, count = row_share(mesh_of(config))
    return {"process_index": index, "process_count": count}
