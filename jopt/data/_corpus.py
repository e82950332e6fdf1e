"""Documents as one array of bytes, and the cut into train, validation and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jopt.errors import DataError, ShapeError

_SHORTEST = 11  # bytes that give each of the three splits at least one


class Document(NamedTuple):
    """A named piece of text that no window ever crosses."""

    name: str
    domain: str
    data: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """One split: the bytes of D documents, one after another.

    Attributes:
        tokens: uint8 (N,), all documents without anything between them.
        offsets: int64 (D + 1,); document d is `tokens[offsets[d]:offsets[d + 1]]`. A
            document may be empty, so that the splits of a corpus keep equal numbering.
        domains: int32 (D,), index into `domain_names`.
        domain_names: the same in all splits of a corpus.
        names: D document names.

    Fails: `ShapeError` if the arrays do not fit together.

    >>> corpus = Corpus(
    ...     tokens=np.frombuffer(b"to be or not", np.uint8),
    ...     offsets=np.array([0, 5, 12]),
    ...     domains=np.array([0, 0], np.int32),
    ...     domain_names=("tragedies",),
    ...     names=("first", "second"),
    ... )
    >>> corpus.tokens[corpus.offsets[1] : corpus.offsets[2]].tobytes()
    b' or not'
    """

    tokens: np.ndarray
    offsets: np.ndarray
    domains: np.ndarray
    domain_names: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        documents = len(self.names)
        if self.tokens.dtype != np.uint8 or self.tokens.ndim != 1:
            raise ShapeError(
                f"Corpus.tokens must be uint8 (N,), got {self.tokens.dtype} "
                f"{self.tokens.shape}"
            )
        if self.offsets.shape != (documents + 1,) or self.domains.shape != (documents,):
            raise ShapeError(
                f"{documents} document names need offsets ({documents + 1},) and "
                f"domains ({documents},), got {self.offsets.shape} and "
                f"{self.domains.shape}"
            )
        if (
            self.offsets[0] != 0
            or self.offsets[-1] != self.tokens.size
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ShapeError(
                f"Corpus.offsets must rise from 0 to {self.tokens.size} (the tokens)"
            )
        if documents and not (
            self.domains.min() >= 0 and self.domains.max() < len(self.domain_names)
        ):
            raise ShapeError(
                f"Corpus.domains must lie in [0, {len(self.domain_names)})"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Three parts of the same documents; document d has one name in all of them."""

    train: Corpus
    validation: Corpus
    test: Corpus


def token_count(corpus: Corpus) -> int:
    """Number of bytes, which is the number of targets `evaluation_batches` counts.

    >>> token_count(pack([Document("a", "x", b"four"), Document("b", "x", b"")]))
    4
    """
    return int(corpus.tokens.size)


def cut(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The first 90 % of the bytes, the next 5 % and the last 5 %, rounded down.

    A cut may fall inside a character of several bytes; tokens are bytes, so nothing is
    lost. A document of fewer than 11 bytes has no validation part.

    >>> [len(part) for part in cut(bytes(1000))]
    [900, 50, 50]
    """
    first, second = len(data) * 90 // 100, len(data) * 95 // 100
    return data[:first], data[first:second], data[second:]


def pack(documents: Sequence[Document], domain_names: Sequence[str] = ()) -> Corpus:
    """Joins documents; domains are numbered in sorted order unless `domain_names` says.

    >>> pack([Document("a", "x", b"12"), Document("b", "y", b"345")]).offsets.tolist()
    [0, 2, 5]
    """
    ordered = tuple(domain_names) or tuple(sorted({d.domain for d in documents}))
    number = {name: index for index, name in enumerate(ordered)}
    lengths = [len(document.data) for document in documents]
    return Corpus(
        tokens=np.frombuffer(b"".join(d.data for d in documents), np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        domains=np.array([number[d.domain] for d in documents], np.int32),
        domain_names=ordered,
        names=tuple(d.name for d in documents),
    )


def split(documents: Sequence[Document]) -> Splits:
    """Cuts every document into train, validation and test.

    Fails: `DataError` if no document is long enough (11 bytes) for all three parts.

    >>> split([Document("a", "x", bytes(100))]).test.offsets.tolist()
    [0, 5]
    """
    parts = [cut(document.data) for document in documents]
    if not any(all(three) for three in parts):
        longest = max((len(document.data) for document in documents), default=0)
        raise DataError(
            f"text is too short to be split: the longest of {len(documents)} documents "
            f"has {longest} bytes and {_SHORTEST} are needed; give longer text"
        )
    return Splits(
        *(
            pack(
                [
                    d._replace(data=three[i])
                    for d, three in zip(documents, parts, strict=True)
                ]
            )
            for i in range(3)
        )
    )
