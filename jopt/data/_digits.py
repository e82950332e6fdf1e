"""1,797 handwritten digits of 8 x 8 pixels, prepared once as a TFDS dataset.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as
scikit-learn ships it (the test part of that set).
"""

from __future__ import annotations

import os

import numpy as np

from jopt.data._examples import ExampleSplits
from jopt.data._packaged import Packaged, load_packaged

# Neighbours in the file may come from one writer: cut through a fixed shuffle.
_SHUFFLE_SEED = 0


def load_digits(cache_dir: str | os.PathLike[str] | None = None) -> ExampleSplits:
    """1,437 training, 180 validation and 180 test digits; pixels from 0 to 1.

    Images are (N, 8, 8, 1), float32, 0 for paper and 1 for ink. They are read from the
    cache, and prepared there first where they are missing.

    Args:
        cache_dir: as in `load`.

    Fails: `DataError` where scikit-learn is not installed, and where the prepared
    digits are damaged or cannot be written.
    """
    return load_packaged(DIGITS, cache_dir)


def _split(rows: np.ndarray) -> list[np.ndarray]:
    """The first 80 %, the next 10 % and the last 10 % of a fixed shuffle."""
    order = np.random.Generator(np.random.Philox(_SHUFFLE_SEED)).permutation(len(rows))
    first, second = len(rows) * 8 // 10, len(rows) * 9 // 10
    return np.split(rows[order], [first, second])


def _builder() -> type:
    from jopt.data._packaged_builders import JoptDigits

    return JoptDigits


DIGITS = Packaged(
    what="digits",
    package="scikit-learn",
    module="sklearn",
    file="datasets/data/digits.csv.gz",
    lines=1797,
    side=8,
    white=16,
    name="jopt_digits",
    split=_split,
    builder=_builder,
)
