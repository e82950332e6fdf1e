"""Training batches as a pure function of (seed, cursor, batch size)."""

# B rows of a batch; T targets of a window; D documents; W windows of an epoch.

from __future__ import annotations

import numpy as np

from jopt.data._corpus import Corpus
from jopt.data._order import Order
from jopt.data._stream import Stream, check_positive, process_rows
from jopt.errors import DataError


class TrainWindows:
    """An endless row of training windows, of which any can be asked for.

    Example i is window `i % windows_per_epoch` of epoch `i // windows_per_epoch`, in an
    order drawn from (seed, epoch). It does not depend on the batch size, on the number
    of hosts or on what was read before, so to resume, to skip and to change the batch
    size all mean to go on from a cursor.

    A document of n bytes gives ceil(n / seq_len) windows in every epoch, each within
    the document: one at its start, read after a newline as in evaluation, and the
    others seq_len apart from a byte in [1, seq_len] on that is drawn for each document
    and epoch. The last is moved back to end with the document where it would run over.
    So windows change from epoch to epoch while their number stays; an epoch leaves out
    at most seq_len - 1 bytes of a document, at its end, and they change too. Windows
    are full, which gives all microbatches of a batch equal weight; only a document
    shorter than seq_len is one window with padding at its end (value 0, mask 0), and an
    empty one has no window. `short_documents` and `empty_documents` name them.

    Args:
        corpus: the train split.
        seq_len: T, targets of a window.
        seed: of the order and the shifts; not negative.

    Fails: `DataError` if no document is as long as seq_len; `ConfigError` for an
    argument out of range.

    >>> from jopt.data._corpus import Document, pack
    >>> corpus = pack([Document("a", "x", bytes(8)), Document("b", "y", bytes(8))])
    >>> windows = TrainWindows(corpus, seq_len=4, seed=0)
    >>> windows.windows_per_epoch
    4
    >>> batch = windows.batch(cursor=2, batch_size=2)
    >>> later = windows.batch(cursor=3, batch_size=1)
    >>> (batch["targets"][1] == later["targets"][0]).all()
    np.True_
    """

    def __init__(self, corpus: Corpus, seq_len: int, seed: int):
        self.seq_len = check_positive("seq_len", seq_len)
        lengths_D = np.diff(corpus.offsets)
        longest = int(lengths_D.max(initial=0))
        if longest < self.seq_len:
            raise DataError(
                f"no document of {len(corpus.names)} is as long as "
                f"seq_len={self.seq_len} (longest: {longest} bytes); lower "
                "data.seq_len or give longer text"
            )
        counts_D = -(-lengths_D // self.seq_len)
        first_D = np.cumsum(counts_D) - counts_D
        self._document_W = np.repeat(np.arange(len(counts_D)), counts_D)
        self._rank_W = np.arange(counts_D.sum()) - first_D[self._document_W]
        self._order = Order(seed, self.windows_per_epoch, self._draw)
        self._latest_D = np.maximum(lengths_D - self.seq_len, 0)
        self._stream = Stream(corpus, self.seq_len)
        short_D = (lengths_D > 0) & (lengths_D < self.seq_len)
        self.short_documents = _pick(corpus.names, short_D)
        self.empty_documents = _pick(corpus.names, lengths_D == 0)

    @property
    def windows_per_epoch(self) -> int:
        """W, the same for every epoch."""
        return self._document_W.size

    def batch(
        self,
        cursor: int,
        batch_size: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> dict[str, np.ndarray]:
        """Examples cursor to cursor + batch_size - 1, or this process's share of them.

        Args:
            cursor: number of examples before this batch; any size, not negative.
            batch_size: B, of the global batch.
            process_index, process_count: give rows `process_index * B / process_count`
                on; the shares of all processes, joined in order, are the global batch.

        Returns:
            `inputs`, `targets` int32 and `mask` float32 (B / process_count, T),
            `domain` int32 (B / process_count,).

        Fails: `ConfigError` if B is not a multiple of process_count, or if an argument
        is out of range.
        """
        rows = process_rows(batch_size, process_index, process_count)
        return self._stream.cut(
            *self.locate(cursor + rows.start, rows.stop - rows.start)
        )

    def locate(self, cursor: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where examples cursor to cursor + count - 1 come from.

        Returns:
            int64 (count,) documents and int64 (count,) first targets in them; example i
            predicts bytes `start[i]` to `start[i] + seq_len - 1` of `document[i]`.
        """
        document, start = self._order.take(cursor, count)
        return document, start

    def _draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shift_D = random.integers(1, self.seq_len + 1, size=self._latest_D.size)
        grid_W = (self._rank_W - 1) * self.seq_len + shift_D[self._document_W]
        start_W = np.clip(grid_W, 0, self._latest_D[self._document_W])
        start_W[self._rank_W == 0] = 0
        order = random.permutation(self.windows_per_epoch)
        return self._document_W[order], start_W[order]


def _pick(names: tuple[str, ...], which_D: np.ndarray) -> tuple[str, ...]:
    return tuple(names[index] for index in np.flatnonzero(which_D))
