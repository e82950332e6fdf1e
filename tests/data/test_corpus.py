"""The cut of documents, and the checks of a corpus."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.data import Corpus
from jopt.data._corpus import Document, cut, split
from jopt.errors import DataError, ShapeError


@pytest.mark.parametrize("size", [0, 1, 19, 20, 21, 99, 100, 101, 12345])
def test_cut_keeps_every_byte_in_order(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    train, validation, test = cut(data)
    assert train + validation + test == data
    assert len(train) == int(0.9 * size + 1e-9)
    assert abs(len(validation) - 0.05 * size) < 1
    assert abs(len(test) - 0.05 * size) <= 1


def test_eleven_bytes_are_enough_for_all_splits():
    assert not any(all(cut(bytes(size))) for size in range(11))
    assert all(all(cut(bytes(size))) for size in range(11, 1000))


def test_documents_keep_number_name_and_domain_in_all_splits():
    documents = [
        Document("long", "y", bytes(range(100))),
        Document("tiny", "x", b"abc"),
        Document("other", "y", bytes(range(100, 200))),
    ]
    splits = split(documents)
    for corpus in (splits.train, splits.validation, splits.test):
        assert corpus.names == ("long", "tiny", "other")
        assert corpus.domain_names == ("x", "y")
        assert corpus.domains.tolist() == [1, 0, 1]
        assert corpus.domains.dtype == np.int32
        assert corpus.offsets.dtype == np.int64
    assert splits.train.offsets.tolist() == [0, 90, 92, 182]
    assert splits.validation.offsets.tolist() == [0, 5, 5, 10]
    assert splits.test.offsets.tolist() == [0, 5, 6, 11]


def test_text_that_cannot_be_split_is_refused():
    with pytest.raises(DataError, match="longest of 2 documents has 10 bytes and 11"):
        split([Document("a", "x", bytes(10)), Document("b", "x", bytes(3))])


def test_tokens_cannot_be_changed_by_accident():
    train = split([Document("a", "x", bytes(100))]).train
    with pytest.raises(ValueError, match="read-only"):
        train.tokens[0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(5, np.int32)}, "must be uint8"),
        ({"offsets": np.array([0, 5])}, "2 document names need offsets"),
        ({"offsets": np.array([0, 2, 4])}, "rise from 0 to 5"),
        ({"offsets": np.array([0, 7, 5])}, "rise from 0 to 5"),
        ({"domains": np.array([0, 1])}, "must lie in"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    good = {
        "tokens": np.zeros(5, np.uint8),
        "offsets": np.array([0, 2, 5]),
        "domains": np.zeros(2, np.int32),
        "domain_names": ("x",),
        "names": ("a", "b"),
    }
    Corpus(**good)
    with pytest.raises(ShapeError, match=message):
        Corpus(**good | change)
