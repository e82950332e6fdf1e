"""Training batches whose blocks of rows are each from domains of their own."""

# S shards; B rows of a batch; D documents; N bytes.

from __future__ import annotations

import numpy as np

from jopt.data._corpus import Corpus
from jopt.data._stream import Stream, process_rows
from jopt.data._windows import TrainWindows
from jopt.errors import ConfigError, DataError


class DomainShards:
    """Windows of S shards of a corpus side by side: block s of a batch is of shard s.

    Domains are dealt to the shards, the largest first, each to the shard with the
    fewest bytes so far. A shard is an endless row of windows as `TrainWindows` has it,
    and a smaller one begins its next epoch earlier. Example i of a shard is in the
    batch at cursor S i, whatever the batch size.

    Args:
        corpus: the train split.
        seq_len: T, targets of a window.
        seed: of the order and the shifts; not negative.
        shards: S, at most the number of domains.

    Fails: `DataError` for fewer domains than shards, or a shard without a document as
    long as seq_len; `ConfigError` for an argument out of range.

    >>> from jopt.data._corpus import Document, pack
    >>> corpus = pack([Document(d, d, bytes(16)) for d in ("plays", "poems")])
    >>> shards = DomainShards(corpus, seq_len=4, seed=0, shards=2)
    >>> shards.batch(cursor=0, batch_size=4)["domain"].tolist()
    [0, 0, 1, 1]
    """

    def __init__(self, corpus: Corpus, seq_len: int, seed: int, shards: int):
        self._shards = [
            TrainWindows(_only(corpus, domains), seq_len, seed)
            for domains in deal(corpus, shards)
        ]
        self._stream = Stream(corpus, seq_len)

    @property
    def windows_per_epoch(self) -> int:
        """Examples until the smallest shard begins again."""
        least = min(shard.windows_per_epoch for shard in self._shards)
        return len(self._shards) * least

    def batch(
        self,
        cursor: int,
        batch_size: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> dict[str, np.ndarray]:
        """As `TrainWindows.batch`.

        Fails: `ConfigError` where S does not divide the cursor or B.
        """
        rows = process_rows(batch_size, process_index, process_count)
        count = len(self._shards)
        for name, value in (("cursor", cursor), ("batch_size", batch_size)):
            if value % count:
                raise ConfigError(
                    f"{name} {value} is not a multiple of the {count} shards"
                )
        found = [
            shard.locate(cursor // count, batch_size // count) for shard in self._shards
        ]
        document_B, start_B = (np.concatenate(x) for x in zip(*found, strict=True))
        return self._stream.cut(document_B[rows], start_B[rows])


def deal(corpus: Corpus, shards: int) -> list[list[int]]:
    """The domains of each shard.

    >>> from jopt.data._corpus import Document, pack
    >>> sizes = {"a": 50, "b": 40, "c": 30, "d": 20}
    >>> deal(pack([Document(d, d, bytes(n)) for d, n in sizes.items()]), 2)
    [[0, 3], [1, 2]]
    """
    domains = len(corpus.domain_names)
    if shards > domains:
        raise DataError(
            f"{shards} shards (data.domain_shards) need as many domains, and the text "
            f"has {domains}: {', '.join(corpus.domain_names)}"
        )
    bytes_D = np.bincount(
        corpus.domains, weights=np.diff(corpus.offsets), minlength=domains
    )
    dealt: list[list[int]] = [[] for _ in range(shards)]
    loads = np.zeros(shards)
    for domain in np.argsort(-bytes_D, kind="stable"):
        least = int(np.argmin(loads))
        dealt[least].append(int(domain))
        loads[least] += bytes_D[domain]
    return dealt


def _only(corpus: Corpus, domains: list[int]) -> Corpus:
    """The corpus with all documents of other domains empty."""
    keep_D = np.isin(corpus.domains, domains)
    lengths_D = np.diff(corpus.offsets)
    kept_D = np.where(keep_D, lengths_D, 0)
    return Corpus(
        tokens=corpus.tokens[np.repeat(keep_D, lengths_D)],
        offsets=np.concatenate([[0], np.cumsum(kept_D)]),
        domains=corpus.domains,
        domain_names=corpus.domain_names,
        names=corpus.names,
    )
