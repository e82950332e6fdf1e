"""The data of a run, by cursor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from jopt import data


@dataclasses.dataclass(frozen=True)
class Source:
    """The data of a run."""

    config: ConfigDict
    splits: data.Splits

    @functools.cached_property
    def windows(self) -> data.TrainWindows:
        return data.TrainWindows(
            self.splits.train, self.config.data.seq_len, self.config.seed
        )

    def batch(self, cursor: int) -> dict[str, np.ndarray]:
        """This process's rows of the training batch at the cursor."""
        return self.windows.batch(
            cursor,
            self.config.train.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.splits.train.domain_names

    def evaluation(
        self, split: str = "validation", *, whole: bool
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `validation` or `test`: every byte once, or a fixed subset."""
        return data.evaluation_batches(
            getattr(self.splits, split),
            self.config.data.seq_len,
            self.config.eval.batch_size,
            stride=self.config.eval.stride,
            max_batches=None if whole else self.config.eval.batches,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def load_source(config: ConfigDict) -> Source:
    """Reads the corpus. Fails: `DataError` with what is missing and what to do."""
    return Source(
        config,
        data.load(
            config.data.name, path=config.data.path, cache_dir=config.data.cache_dir
        ),
    )
