"""Windows cut out of a corpus.

Every document is laid out as one newline and its bytes. A window of a document starts
at the index of its first target; it reads from the byte before, which for index 0 is
the newline.
"""

# B rows of a batch; T targets of a window; D documents; W windows.

from __future__ import annotations

from typing import Any

import numpy as np

from jopt.data._corpus import Corpus
from jopt.errors import ConfigError

_NEWLINE = 10


def check_positive(name: str, value: Any) -> int:
    """`value` as an int of at least 1, or `ConfigError` naming the argument.

    >>> check_positive("seq_len", np.int32(8))
    8
    """
    if isinstance(value, int | np.integer) and value >= 1:
        return int(value)
    raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """Which rows of a global batch belong to one of the processes that share it.

    >>> process_rows(8, 1, 4)
    slice(2, 4, None)
    """
    check_positive("batch_size", batch_size)
    check_positive("process_count", process_count)
    if batch_size % process_count:
        raise ConfigError(
            f"batch_size {batch_size} is not a multiple of the {process_count} "
            "processes that share it"
        )
    if not 0 <= process_index < process_count:
        raise ConfigError(
            f"process_index must be in [0, {process_count}), got {process_index}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def spread(count: int, wanted: int) -> np.ndarray:
    """int64 (wanted,): the middle of each of `wanted` equal parts of `count` places.

    >>> spread(100, 4).tolist()
    [12, 37, 62, 87]
    """
    return (2 * np.arange(wanted) + 1) * count // (2 * wanted)


def filled(batch: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
    """The batch with rows of zeros up to `batch_size`, so with mask 0.

    >>> filled({"mask": np.ones(2, np.float32)}, 3)["mask"].tolist()
    [1.0, 1.0, 0.0]
    """
    return {
        name: np.pad(rows, [(0, batch_size - len(rows))] + [(0, 0)] * (rows.ndim - 1))
        for name, rows in batch.items()
    }


class Stream:
    """The bytes of a corpus in the order of reading, ready to be cut into windows."""

    def __init__(self, corpus: Corpus, seq_len: int):
        self._lengths_D = np.diff(corpus.offsets)
        self._base_D = corpus.offsets[:-1] + np.arange(len(corpus.names))
        self._domains_D = corpus.domains.astype(np.int32)
        bytes_N = np.insert(corpus.tokens, corpus.offsets[:-1], _NEWLINE)
        # Lets a window that is longer than the rest of the last document be cut.
        bytes_N = np.concatenate([bytes_N, np.zeros(seq_len + 1, np.uint8)])
        self._windows = np.lib.stride_tricks.sliding_window_view(bytes_N, seq_len + 1)
        self._ramp_T = np.arange(seq_len)

    def cut(self, document_B: np.ndarray, start_B: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of windows that start at byte `start_B` of their documents.

        What lies behind the end of a document is 0 in `inputs` and `targets` and has
        `mask` 0; no byte of another document is ever in a window.
        """
        rows = self._windows[self._base_D[document_B] + start_B].astype(np.int32)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        left_B = self._lengths_D[document_B] - start_B
        if left_B.min() >= self._ramp_T.size:
            mask = np.ones(inputs.shape, np.float32)
        else:
            inside = self._ramp_T < left_B[:, None]
            inputs, targets = inputs * inside, targets * inside
            mask = inside.astype(np.float32)
        return {
            "inputs": np.ascontiguousarray(inputs),
            "targets": np.ascontiguousarray(targets),
            "mask": mask,
            "domain": self._domains_D[document_B],
        }
