"""Each byte is counted once, from enough context."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.data import Corpus, evaluation_batches, token_count
from jopt.errors import ConfigError, DataError

NEWLINE = 10
LENGTHS = (17, 0, 1, 4, 5, 8, 3, 9, 40)
STRIDES = [(4, 1), (4, 2), (4, 3), (4, 4), (5, 2), (8, 8), (8, 5), (64, 10), (1, 1)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize(("seq_len", "stride"), STRIDES)
def test_every_byte_is_counted_once(numbered, seq_len, stride, batch_size):
    corpus = numbered(*LENGTHS)
    counted = []
    for batch in evaluation_batches(corpus, seq_len, batch_size, stride=stride):
        assert batch["targets"].shape == batch["mask"].shape == (batch_size, seq_len)
        assert set(np.unique(batch["mask"])) <= {0.0, 1.0}
        counted += batch["targets"][batch["mask"] == 1].tolist()
    # Bytes of this corpus count up, so each value stands for one place.
    assert counted == corpus.tokens.tolist()


@pytest.mark.parametrize(("seq_len", "stride"), STRIDES)
def test_context_is_long_and_of_the_same_document(numbered, seq_len, stride):
    corpus = numbered(*LENGTHS)
    place = {byte: index for index, byte in enumerate(corpus.tokens.tolist())}
    document_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for batch in evaluation_batches(corpus, seq_len, 4, stride=stride):
        for row, column in np.argwhere(batch["mask"] == 1):
            where = place[batch["targets"][row, column]]
            document = document_of[where]
            inside = where - corpus.offsets[document]
            assert batch["domain"][row] == corpus.domains[document]
            assert column == inside or column >= seq_len - stride
            start = where - column
            before = corpus.tokens[start:where].tolist()
            newline = NEWLINE if inside == column else corpus.tokens[start - 1]
            assert batch["inputs"][row, : column + 1].tolist() == [newline, *before]


@pytest.mark.parametrize("max_batches", [None, 2])
def test_processes_share_each_batch(numbered, max_batches):
    def batches(**share):
        corpus = numbered(*LENGTHS)
        return list(
            evaluation_batches(corpus, 4, 6, stride=3, max_batches=max_batches, **share)
        )

    parts = [batches(process_index=i, process_count=3) for i in range(3)]
    for whole, *shares in zip(batches(), *parts, strict=True):
        for name, rows in whole.items():
            joined = np.concatenate([share[name] for share in shares])
            np.testing.assert_array_equal(joined, rows)
    with pytest.raises(ConfigError, match="6 is not a multiple of the 4 processes"):
        batches(process_count=4)


def test_padding_is_zero(numbered):
    (batch,) = evaluation_batches(numbered(3), 4, 2)
    assert batch["inputs"].tolist() == [[10, 11, 12, 0], [0, 0, 0, 0]]
    assert batch["targets"].tolist() == [[11, 12, 13, 0], [0, 0, 0, 0]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert batch["domain"].tolist() == [0, 0]
    assert [batch[n].dtype.name for n in ("inputs", "targets", "mask", "domain")] == [
        "int32",
        "int32",
        "float32",
        "int32",
    ]


@pytest.mark.parametrize("stride", [None, 100])
def test_plays_are_counted_once(plays, stride):
    batches = list(evaluation_batches(plays.validation, 128, 32, stride=stride))
    assert sum(b["mask"].sum(dtype=int) for b in batches) == token_count(
        plays.validation
    )
    counted = [b["targets"][b["mask"] == 1] for b in batches]
    np.testing.assert_array_equal(np.concatenate(counted), plays.validation.tokens)


def many_documents() -> Corpus:
    return Corpus(
        tokens=np.random.default_rng(0).integers(1, 256, 4000).astype(np.uint8),
        offsets=np.arange(0, 4001, 100),
        domains=np.arange(40, dtype=np.int32),
        domain_names=tuple(f"{i}" for i in range(40)),
        names=tuple(f"{i}" for i in range(40)),
    )


@pytest.mark.parametrize("max_batches", [1, 5, 13])
def test_a_subset_is_fixed_and_spread_over_all_documents(max_batches):
    corpus = many_documents()
    batches = list(evaluation_batches(corpus, 10, 8, max_batches=max_batches))
    again = list(evaluation_batches(corpus, 10, 8, max_batches=max_batches))
    assert len(batches) == max_batches
    for one, other in zip(batches, again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    counts = np.bincount(np.concatenate([b["domain"] for b in batches]), minlength=40)
    assert counts.max() - counts.min() <= 1
    rows = np.concatenate([b["targets"] for b in batches])
    assert len(np.unique(rows, axis=0)) == 8 * max_batches
    every = np.concatenate([b["targets"] for b in evaluation_batches(corpus, 10, 8)])
    assert {tuple(row) for row in rows} <= {tuple(row) for row in every}


def test_a_subset_no_smaller_than_the_whole_is_the_whole():
    corpus = many_documents()
    whole = list(evaluation_batches(corpus, 10, 8))
    assert len(whole) == 50
    limited = list(evaluation_batches(corpus, 10, 8, max_batches=50))
    for one, other in zip(whole, limited, strict=True):
        np.testing.assert_array_equal(one["targets"], other["targets"])
    assert len(list(evaluation_batches(corpus, 10, 8, max_batches=51))) == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 5}, "stride 5 is larger than seq_len 4: bytes would be left out"),
        ({"stride": 0}, "stride must be an integer of at least 1"),
        ({"seq_len": 0}, "seq_len must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"max_batches": 0}, "max_batches must be"),
    ],
)
def test_arguments_are_checked_at_the_call(numbered, arguments, message):
    with pytest.raises(ConfigError, match=message):
        evaluation_batches(numbered(9), **{"seq_len": 4, "batch_size": 2} | arguments)


def test_nothing_to_evaluate_is_an_error_at_the_call(numbered):
    with pytest.raises(DataError, match="no byte to evaluate on"):
        evaluation_batches(numbered(0, 0), 4, 2)
