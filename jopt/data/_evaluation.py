"""Batches that count every byte of a split exactly once."""

# B rows of a batch; T targets of a window; D documents; W windows.

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jopt.data._corpus import Corpus
from jopt.data._stream import (
    Stream,
    check_positive,
    filled,
    process_rows,
    spread,
)
from jopt.errors import ConfigError, DataError


def evaluation_batches(
    corpus: Corpus,
    seq_len: int,
    batch_size: int,
    *,
    stride: int | None = None,
    max_batches: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Windows over all documents, in order, each byte counted once.

    The windows of a document start `stride` bytes apart. The first counts all its
    targets; the others count only their last `stride`, and what comes before is context
    with mask 0. So beyond the first window every byte is predicted from at least
    seq_len - stride bytes before it. What lies behind the end of a document, and the
    rows that fill up the last batch, are 0 with mask 0 (`domain` is 0 there too).

    Args:
        corpus: any split.
        seq_len: T, length of a window.
        batch_size: B; every batch has this many rows.
        stride: counted targets of a window after the first, in [1, seq_len]; default
            seq_len, which is the cheapest. Cost grows by seq_len / stride.
        max_batches: for a cheap look at regular intervals, at most this many batches:
            max_batches * B windows spread evenly over all windows, always the same.
            The mean over them is an estimate; without it the split is complete.
        process_index, process_count: give only the rows of each batch that belong to
            this process; the rows of all processes, joined in order, are the batch.

    Returns:
        an iterator of batches: `inputs`, `targets` int32 and `mask` float32
        (B / process_count, T), `domain` int32 (B / process_count,). Without
        `max_batches` the sum of all masks of all processes is `token_count(corpus)`.

    Fails: at the call, `ConfigError` for an argument out of range and `DataError` for a
    corpus without any byte.

    >>> from jopt.data._corpus import Document, pack
    >>> corpus = pack([Document("a", "x", b"abcdef")])
    >>> for batch in evaluation_batches(corpus, 4, 1, stride=2):
    ...     print(bytes(batch["targets"][0].tolist()), batch["mask"][0])
    b'abcd' [1. 1. 1. 1.]
    b'cdef' [0. 0. 1. 1.]
    """
    seq_len = check_positive("seq_len", seq_len)
    batch_size = check_positive("batch_size", batch_size)
    mine = process_rows(batch_size, process_index, process_count)
    stride = check_positive("stride", seq_len if stride is None else stride)
    if stride > seq_len:
        raise ConfigError(
            f"stride {stride} is larger than seq_len {seq_len}: bytes would be left out"
        )
    document_W, rank_W = _windows(corpus, seq_len, stride)
    if not document_W.size:
        raise DataError("there is no byte to evaluate on; give longer text")
    if max_batches is not None:
        wanted = check_positive("max_batches", max_batches) * batch_size
        if wanted < document_W.size:
            chosen = spread(document_W.size, wanted)
            document_W, rank_W = document_W[chosen], rank_W[chosen]
    batches = _batches(corpus, seq_len, batch_size, stride, document_W, rank_W)
    return ({name: rows[mine] for name, rows in batch.items()} for batch in batches)


def _windows(
    corpus: Corpus, seq_len: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Document and number within it of every window."""
    lengths_D = np.diff(corpus.offsets)
    more_D = -(-np.maximum(lengths_D - seq_len, 0) // stride)
    counts_D = np.where(lengths_D > 0, 1 + more_D, 0)
    document_W = np.repeat(np.arange(len(counts_D)), counts_D)
    first_D = np.cumsum(counts_D) - counts_D
    return document_W, np.arange(document_W.size) - first_D[document_W]


def _batches(
    corpus: Corpus,
    seq_len: int,
    batch_size: int,
    stride: int,
    document_W: np.ndarray,
    rank_W: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    stream = Stream(corpus, seq_len)
    is_context_T = np.arange(seq_len) < seq_len - stride
    for begin in range(0, document_W.size, batch_size):
        here = slice(begin, begin + batch_size)
        rank_B = rank_W[here]
        batch = stream.cut(document_W[here], rank_B * stride)
        batch["mask"][(rank_B > 0)[:, None] & is_context_T] = 0.0
        yield filled(batch, batch_size)
