"""The plays of Shakespeare by genre: a shift of style for a language model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jopt.data._corpus import Corpus, Document, pack
from jopt.data._plays import read_package
from jopt.data._stream import Stream, check_positive
from jopt.data.environments._types import DomainTask, Environment
from jopt.errors import DataError

# B rows; T targets of a row; N windows.

VOCABULARY = 256
BYTES_ENTROPY = 4.765  # bits of a byte of the plays by the frequencies alone
CLASSES = tuple(map(str, range(VOCABULARY)))


@dataclasses.dataclass(frozen=True, eq=False)
class TextWindows:
    """Windows of T bytes of some documents, side by side; the rest of one is left out.

    As `Labelled`: `rows` gives `inputs`, `targets` and `mask` (B, T) and `domain` (B,).
    """

    corpus: Corpus
    seq_len: int
    documents: np.ndarray
    starts: np.ndarray

    @property
    def size(self) -> int:
        """N."""
        return len(self.documents)

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.corpus.domain_names

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Examples.rows`; bytes cannot be changed.

        Fails: `DataError` with a `change`.
        """
        if change is not None:
            raise DataError("text has no augmentation; leave it out")
        return self._stream.cut(self.documents[index_B], self.starts[index_B])

    @functools.cached_property
    def _stream(self) -> Stream:
        return Stream(self.corpus, self.seq_len)


def text_windows(documents: Sequence[Document], seq_len: int) -> TextWindows:
    """The whole windows of each document.

    Fails: `DataError` where no document fills one.

    >>> windows = text_windows([Document("a", "x", b"abcdefg")], 3)
    >>> windows.rows(np.array([1]))["targets"].astype(np.uint8).tobytes()
    b'def'
    """
    check_positive("seq_len", seq_len)
    counts_D = np.array([len(d.data) // seq_len for d in documents], np.int64)
    if not counts_D.sum():
        longest = max((len(d.data) for d in documents), default=0)
        raise DataError(
            f"no document of {len(documents)} has seq_len={seq_len} bytes (longest: "
            f"{longest}); lower seq_len"
        )
    first_D = np.cumsum(counts_D) - counts_D
    document_N = np.repeat(np.arange(len(documents)), counts_D)
    start_N = (np.arange(len(document_N)) - first_D[document_N]) * seq_len
    return TextWindows(pack(documents), seq_len, document_N, start_N)


def genres_task(name: str, *, seq_len: int = 128) -> DomainTask:
    """Six environments, the genres of the 38 plays; what is predicted is the next byte.

    Train on five, and the test is the bits a byte of the sixth (tragedies, unless a
    study names another). The windows of a play are held out at random, so ID figures
    are of other parts of the same plays.

    Args:
        seq_len: T, bytes of a window.

    Fails: `DataError` where the package is not installed, with the command.
    """
    by_genre: dict[str, list[Document]] = {}
    for play in read_package():
        by_genre.setdefault(play.domain, []).append(play)
    envs = tuple(
        Environment(genre, text_windows(plays, seq_len))
        for genre, plays in sorted(by_genre.items())
    )
    return DomainTask(
        name,
        envs,
        (seq_len,),
        VOCABULARY,
        metric="bits_per_byte",
        default_test_envs=(len(envs) - 1,),
        chance=BYTES_ENTROPY,
    )
