"""Labelled examples: the cursor contract, exact evaluation, and the digits."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest

from jopt.data import (
    Examples,
    TrainExamples,
    example_batches,
    load_digits,
)
from jopt.data._digits import DIGITS
from jopt.data._packaged import digest, read_package, stored_pixels
from jopt.errors import ConfigError, DataError, ShapeError


def numbered(count: int) -> Examples:
    """Examples whose one input is their number."""
    return Examples(
        inputs=np.arange(count, dtype=np.float32)[:, None],
        targets=(np.arange(count) % 3).astype(np.int32),
        domains=(np.arange(count) % 2).astype(np.int32),
        class_names=("a", "b", "c"),
        domain_names=("x", "y"),
    )


def numbers(batch) -> list[int]:
    return batch["inputs"][:, 0].astype(int).tolist()


def test_every_epoch_has_each_example_once_in_another_order():
    source = TrainExamples(numbered(10), seed=0)
    epochs = [numbers(source.batch(10 * e, 10)) for e in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert all(a != b for a, b in itertools.pairwise(epochs))
    assert numbers(TrainExamples(numbered(10), seed=1).batch(0, 10)) != epochs[0]


def test_a_batch_is_a_function_of_the_cursor():
    """Resume, skip, batch size and number of hosts do not change what comes where."""
    whole = numbers(TrainExamples(numbered(7), seed=3).batch(0, 60))
    fresh = TrainExamples(numbered(7), seed=3)
    for cursor, size in ((0, 1), (5, 4), (6, 20), (33, 8)):
        assert numbers(fresh.batch(cursor, size)) == whole[cursor : cursor + size]
    halves = [fresh.batch(12, 8, process_index=i, process_count=2) for i in (0, 1)]
    assert numbers(halves[0]) + numbers(halves[1]) == whole[12:20]


def test_a_row_keeps_what_belongs_together():
    batch = TrainExamples(numbered(10), seed=0).batch(0, 10)
    np.testing.assert_array_equal(batch["targets"], np.array(numbers(batch)) % 3)
    np.testing.assert_array_equal(batch["domain"], np.array(numbers(batch)) % 2)
    types = {name: rows.dtype.name for name, rows in batch.items()}
    assert types == {
        "inputs": "float32",
        "targets": "int32",
        "mask": "float32",
        "domain": "int32",
    }


def test_evaluation_counts_every_example_once():
    batches = list(example_batches(numbered(10), 4))
    assert [b["mask"].sum() for b in batches] == [4, 4, 2]
    seen = [n for b in batches for n, m in zip(numbers(b), b["mask"], strict=True) if m]
    assert seen == list(range(10))
    shares = [
        list(example_batches(numbered(10), 4, process_index=i, process_count=2))
        for i in (0, 1)
    ]
    for batch, first, second in zip(batches, *shares, strict=True):
        assert numbers(batch) == numbers(first) + numbers(second)


def test_a_short_evaluation_is_spread_over_the_split():
    (batch,) = example_batches(numbered(100), 5, max_batches=1)
    assert numbers(batch) == [10, 30, 50, 70, 90]


def test_bad_arguments():
    with pytest.raises(ConfigError, match="seed must be an integer of at least 0"):
        TrainExamples(numbered(3), seed=-1)
    with pytest.raises(ConfigError, match="cursor must be an integer"):
        TrainExamples(numbered(3), seed=0).batch(-1, 2)
    with pytest.raises(DataError, match="no example to train on"):
        TrainExamples(numbered(0), seed=0)
    with pytest.raises(DataError, match="no example to evaluate on"):
        example_batches(numbered(0), 4)
    with pytest.raises(ShapeError, match="2 inputs need targets"):
        Examples(np.ones((2, 1)), np.zeros(3), np.zeros(2), ("a",), ("x",))


@pytest.fixture(scope="module")
def digits_cache(tmp_path_factory):
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs the digits: pip install scikit-learn")
    return tmp_path_factory.mktemp("cache")


def test_the_digits_are_those_of_scikit_learn(digits_cache):
    from sklearn.datasets import load_digits as reference

    splits = load_digits(digits_cache)
    parts = (splits.train, splits.validation, splits.test)
    assert [part.size for part in parts] == [1437, 180, 180]
    ours = [
        (*image, target)
        for part in parts
        for image, target in zip(
            stored_pixels(DIGITS, part).reshape(-1, 64).tolist(),
            part.targets,
            strict=True,
        )
    ]
    theirs = reference()
    expected = [
        (*image, target)
        for image, target in zip(
            theirs.data.astype(int).tolist(), theirs.target, strict=True
        )
    ]
    assert sorted(ours) == sorted(expected)
    assert ours != expected
    for part in parts:
        assert 0 == part.inputs.min() < part.inputs.max() == 1
        assert np.bincount(part.targets, minlength=10).min() >= 5
    assert digest(load_digits(digits_cache)) == digest(splits)


def test_digits_need_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="\n  pip install scikit-learn"):
        load_digits(tmp_path)


def test_a_damaged_package_is_said_to_be_so(monkeypatch, tmp_path):
    package = tmp_path / "sklearn"
    (package / "datasets/data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "datasets/data/digits.csv.gz").write_bytes(b"not gzip")
    spec = importlib.util.spec_from_file_location(
        "sklearn", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="--force-reinstall scikit-learn"):
        read_package(DIGITS)
