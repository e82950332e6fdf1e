"""The contract of the cursor, and what an epoch covers."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.data import TrainWindows
from jopt.data._corpus import Document, split
from jopt.errors import ConfigError, DataError

NEWLINE = 10


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def rows(batches):
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in ("inputs", "targets", "mask", "domain")
    }


@pytest.fixture
def windows(numbered):
    return TrainWindows(numbered(33, 8, 21, 50, 7, 16), seq_len=8, seed=3)


def test_shapes_and_types(windows):
    batch = windows.batch(0, 6)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "inputs": ((6, 8), "int32"),
        "targets": ((6, 8), "int32"),
        "mask": ((6, 8), "float32"),
        "domain": ((6,), "int32"),
    }


def test_the_order_is_pinned(windows):
    # A change here changes every training run: numpy must not do that unnoticed.
    documents, starts = windows.locate(5 * windows.windows_per_epoch, 8)
    assert documents.tolist() == [0, 5, 4, 2, 5, 0, 0, 3]
    assert starts.tolist() == [8, 0, 0, 0, 1, 24, 25, 15]


@pytest.mark.parametrize("cursor", [0, 5, 19, 1000])
@pytest.mark.parametrize("size", [1, 2, 7, 24, 60])
def test_a_batch_is_its_examples(windows, cursor, size):
    """Resuming, skipping and another batch size all follow from this."""
    singles = [windows.batch(cursor + i, 1) for i in range(size)]
    assert_equal(windows.batch(cursor, size), rows(singles))


def test_a_new_object_continues_where_another_stopped(windows, numbered):
    windows.batch(0, 50)
    fresh = TrainWindows(numbered(33, 8, 21, 50, 7, 16), seq_len=8, seed=3)
    assert_equal(fresh.batch(50, 20), windows.batch(50, 20))


def test_reading_order_does_not_matter(windows):
    later, earlier = windows.batch(900, 16), windows.batch(3, 16)
    assert_equal(windows.batch(900, 16), later)
    assert_equal(windows.batch(3, 16), earlier)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_hosts_share_the_global_batch_in_order(windows, count):
    shares = [
        windows.batch(17, 12, process_index=i, process_count=count)
        for i in range(count)
    ]
    assert all(share["inputs"].shape == (12 // count, 8) for share in shares)
    assert_equal(rows(shares), windows.batch(17, 12))


def test_a_cursor_has_no_upper_bound(windows):
    assert windows.batch(10**30, 4)["inputs"].shape == (4, 8)


def test_seeds_and_epochs_differ(numbered):
    def order(seed, epoch=0):
        windows = TrainWindows(numbered(200), 4, seed)
        return windows.locate(epoch * windows.windows_per_epoch, 50)[1].tolist()

    orders = [order(0), order(1), order(0, 1), order(2**32), order(0, 2**32)]
    assert all(orders[i] != orders[j] for i in range(5) for j in range(i))


def test_targets_follow_inputs_inside_one_document(windows, numbered):
    corpus = numbered(33, 8, 21, 50, 7, 16)
    count = 5 * windows.windows_per_epoch
    batch = windows.batch(0, count)
    for row, (document, start) in enumerate(
        zip(*windows.locate(0, count), strict=True)
    ):
        first, last = corpus.offsets[document : document + 2]
        text = [NEWLINE, *corpus.tokens[first:last].tolist()]
        length = min(8, len(text) - 1 - start)
        assert batch["domain"][row] == corpus.domains[document]
        assert batch["mask"][row].tolist() == [1.0] * length + [0.0] * (8 - length)
        for name, shift in (("inputs", 0), ("targets", 1)):
            expected = text[start + shift : start + shift + length]
            assert batch[name][row].tolist() == expected + [0] * (8 - length)


@pytest.mark.parametrize("seq_len", [1, 2, 7, 8, 16])
def test_an_epoch_covers_nearly_every_byte(numbered, seq_len):
    lengths = (33, 8, 21, 50, 7, 16)
    windows = TrainWindows(numbered(*lengths), seq_len, seed=0)
    assert windows.windows_per_epoch == sum(-(-n // seq_len) for n in lengths)
    ever = [np.zeros(n, bool) for n in lengths]
    for epoch in range(60):
        size = windows.windows_per_epoch
        documents, starts = windows.locate(epoch * size, size)
        for document, length in enumerate(lengths):
            seen = np.zeros(length, bool)
            for start in starts[documents == document]:
                assert start == 0 or start + seq_len <= length
                seen[start : start + seq_len] = True
            missed = length - seen.sum()
            assert missed <= seq_len - 1
            assert seen[: length - missed].all()
            ever[document] |= seen
    assert all(seen.all() for seen in ever)


def test_every_epoch_shifts_every_document(numbered):
    windows = TrainWindows(numbered(120, 120), 10, seed=0)
    size, shifts = windows.windows_per_epoch, []
    for epoch in range(100):
        documents, starts = windows.locate(epoch * size, size)
        # The smallest start of each document is 0, the next one is the shift.
        shifts.append([np.sort(starts[documents == d])[1] for d in (0, 1)])
        inner = np.sort(starts[documents == 0])[1:]
        assert set(np.diff(inner)) == {10}
    for document in (0, 1):
        assert {pair[document] for pair in shifts} == set(range(1, 11))
    assert any(a != b for a, b in shifts)


def test_short_and_empty_documents_are_named(numbered):
    windows = TrainWindows(numbered(9, 0, 5), seq_len=8, seed=0)
    assert windows.short_documents == ("document 2",)
    assert windows.empty_documents == ("document 1",)
    batch = windows.batch(0, windows.windows_per_epoch)
    assert sorted(batch["mask"].sum(axis=1).tolist()) == [5.0, 8.0, 8.0]


def test_no_validation_or_test_byte_is_trained_on():
    """Train bytes are below 128, all others above; each document has its own digits."""

    def text(document, size):
        kind = np.where(np.arange(size) < size * 90 // 100, 16, 128)
        return (kind + document).astype(np.uint8).tobytes()

    sizes = (100, 333, 1000, 41)
    train = split(
        [Document(f"{d}", "x", text(d, n)) for d, n in enumerate(sizes)]
    ).train
    windows = TrainWindows(train, seq_len=16, seed=0)
    count = 30 * windows.windows_per_epoch
    batch = windows.batch(0, count)
    documents, _ = windows.locate(0, count)
    np.testing.assert_array_equal(batch["targets"], np.tile(16 + documents, (16, 1)).T)
    is_newline = batch["inputs"] == NEWLINE
    assert not is_newline[:, 1:].any()
    other = np.where(is_newline, batch["targets"], batch["inputs"])
    np.testing.assert_array_equal(other, batch["targets"])


def test_plays_train_on_the_first_nine_tenths(plays):
    windows = TrainWindows(plays.train, seq_len=128, seed=0)
    lengths = np.diff(plays.train.offsets)
    whole = sum(np.diff(s.offsets) for s in (plays.train, plays.validation, plays.test))
    np.testing.assert_array_equal(lengths, whole * 90 // 100)
    for cursor in (0, windows.windows_per_epoch):
        documents, starts = windows.locate(cursor, windows.windows_per_epoch)
        assert (starts >= 0).all()
        assert (starts + 128 <= lengths[documents]).all()
        assert set(documents) == set(range(38))
    assert windows.short_documents == windows.empty_documents == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 7, "process_count": 2},
            "7 is not a multiple of the 2 processes",
        ),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer of at least 1, got 2.0"),
        ({"cursor": -1}, "cursor must be an integer of at least 0, got -1"),
        ({"process_index": 1}, r"process_index must be in \[0, 1\), got 1"),
        ({"process_count": 0}, "process_count must be an integer of at least 1"),
    ],
)
def test_batch_arguments_are_checked(windows, arguments, message):
    with pytest.raises(ConfigError, match=message):
        windows.batch(**{"cursor": 0, "batch_size": 4} | arguments)


@pytest.mark.parametrize(
    ("seq_len", "seed", "error", "message"),
    [
        (0, 0, ConfigError, "seq_len must be"),
        (4, -1, ConfigError, "seed must be an integer of at least 0, got -1"),
        (9, 0, DataError, r"seq_len=9 \(longest: 8 bytes\); lower data.seq_len"),
    ],
)
def test_windows_arguments_are_checked(numbered, seq_len, seed, error, message):
    with pytest.raises(error, match=message):
        TrainWindows(numbered(8, 3), seq_len, seed)
