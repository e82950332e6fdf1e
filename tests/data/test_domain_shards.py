"""Blocks of a batch, each with domains of its own, are a function of the cursor too."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.data import DomainShards, Splits, TrainWindows
from jopt.data._corpus import Document, pack
from jopt.errors import ConfigError, DataError
from jopt.training._config import default_config
from jopt.training._source import TextSource

T = 4


@pytest.fixture
def corpus():
    """Four domains of 80, 50, 40 and 30 bytes, which two shards share 80+30, 50+40."""
    sizes = {"a": (60, 20), "b": (50,), "c": (40,), "d": (30,)}
    random = np.random.default_rng(0)
    return pack(
        [
            Document(f"{domain}{i}", domain, random.bytes(size))
            for domain, several in sizes.items()
            for i, size in enumerate(several)
        ]
    )


def test_a_block_has_domains_of_its_own_and_all_are_read(corpus):
    shards = DomainShards(corpus, T, seed=1, shards=2)
    seen = [set(), set()]
    for cursor in range(0, 120, 6):
        domains = shards.batch(cursor, 6)["domain"]
        for block in range(2):
            seen[block] |= set(domains[3 * block : 3 * block + 3].tolist())
    assert seen == [{0, 3}, {1, 2}]


def test_the_windows_are_those_of_the_documents(corpus):
    """A shard reads what `TrainWindows` reads where all other documents are empty."""
    batch = DomainShards(corpus, T, seed=1, shards=2).batch(8, 8)
    for block, domains in enumerate(({0, 3}, {1, 2})):
        documents = []
        for d, (name, domain) in enumerate(
            zip(corpus.names, corpus.domains, strict=True)
        ):
            text = corpus.tokens[slice(*corpus.offsets[d : d + 2])].tobytes()
            own = text if domain in domains else b""
            documents.append(Document(name, corpus.domain_names[domain], own))
        alone = TrainWindows(pack(documents), T, seed=1).batch(4, 4)
        rows = slice(4 * block, 4 * block + 4)
        for name in alone:
            np.testing.assert_array_equal(batch[name][rows], alone[name])


def test_processes_and_batch_sizes_see_the_same_examples(corpus):
    shards = DomainShards(corpus, T, seed=1, shards=2)
    whole = shards.batch(4, 8)
    parts = [shards.batch(4, 8, process_index=p, process_count=4) for p in range(4)]
    halves = [shards.batch(4, 4), shards.batch(8, 4)]
    for name, rows in whole.items():
        np.testing.assert_array_equal(rows, np.concatenate([p[name] for p in parts]))
        blocks = [h[name][2 * b : 2 * b + 2] for b in range(2) for h in halves]
        np.testing.assert_array_equal(rows, np.concatenate(blocks))
    # Every window of the smallest shard once: its 90 bytes.
    assert shards.windows_per_epoch == 2 * min(20 + 8, 13 + 10)


def test_a_run_has_them_by_its_config(corpus):
    config = default_config()
    config.data.update(seq_len=T, domain_shards=2)
    config.train.batch_size = 4
    batch = TextSource(config, Splits(corpus, corpus, corpus)).batch(8)
    expected = DomainShards(corpus, T, config.seed, shards=2).batch(8, 4)
    np.testing.assert_array_equal(batch["targets"], expected["targets"])


def test_what_cannot_be(corpus):
    shards = DomainShards(corpus, T, seed=1, shards=2)
    for cursor, size in ((1, 4), (2, 3)):
        with pytest.raises(ConfigError, match="not a multiple of the 2 shards"):
            shards.batch(cursor, size)
    with pytest.raises(DataError, match=r"5 shards .* need as many .* 4: a, b, c, d"):
        DomainShards(corpus, T, seed=1, shards=5)
