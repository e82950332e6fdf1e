"""The n-gram benchmark against a slow model made of dicts."""

from __future__ import annotations

import doctest
import importlib.util
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from jopt.data._corpus import Document, pack

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ngram():
    spec = importlib.util.spec_from_file_location(
        "ngram", ROOT / "benchmarks" / "ngram.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slow_model(train, order):
    """p(byte | context) of one order, as a function."""
    counts = [defaultdict(Counter) for _ in range(order)]
    for data in train:
        text = b"\n" * (order - 1) + data
        for place in range(order - 1, len(text)):
            for length in range(order):
                counts[length][text[place - length : place]][text[place]] += 1

    def probability(context, byte):
        p = 1 / 256
        for length in range(order):
            seen = counts[length].get(context[len(context) - length :])
            if seen:
                p = (seen[byte] + len(seen) * p) / (seen.total() + len(seen))
        return p

    return probability


def texts(seed, *sizes):
    random = np.random.default_rng(seed)
    return [
        bytes(random.choice(list(b"ab\nc"), n, p=[0.6, 0.2, 0.1, 0.1])) for n in sizes
    ]


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_equal_to_the_slow_model(ngram, order):
    train, validation = texts(0, 300, 0, 80), texts(1, 3, 50, 0)
    model = slow_model(train, order)
    assert math.isclose(sum(model(b"ab" * 4, byte) for byte in range(256)), 1.0)
    bits = [
        -math.log2(model((b"\n" * 8 + data[:place])[-(order - 1) or 99 :], data[place]))
        for data in validation
        for place in range(len(data))
    ]
    found = ngram.bits_per_byte(
        *(pack([Document("d", "x", d) for d in part]) for part in (train, validation)),
        [order],
    )
    assert found == {order: pytest.approx(np.mean(bits), rel=1e-12)}


def test_example_in_docstring(ngram):
    assert doctest.testmod(ngram).failed == 0


@pytest.mark.parametrize("orders", [[], [0], [3, 9]])
def test_orders_out_of_range(ngram, orders):
    corpus = pack([Document("d", "x", b"abc")])
    with pytest.raises(ValueError, match=r"orders must be in \[1, 8\]"):
        ngram.bits_per_byte(corpus, corpus, orders)


def test_command(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"the same again and again. " * 400)
    command = [sys.executable, str(ROOT / "benchmarks" / "ngram.py")]
    command += ["--path", str(tmp_path), "--orders", "2", "6"]
    result = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("train 9,360 bytes, validation 520 bytes")
    assert [line.split()[0] for line in lines[2:]] == ["2", "6"]
    assert float(lines[3].split()[1]) < float(lines[2].split()[1])
