"""1,797 handwritten digits of 8 x 8 pixels, prepared once as a TFDS dataset.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as
scikit-learn ships it (the test part of that set).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from jopt.data._examples import Examples, ExampleSplits
from jopt.data._prepared import Recipe, load_prepared, records
from jopt.errors import DataError

PIXELS = 64
CLASSES = tuple("0123456789")
_DARKEST = 16.0
# Neighbours in the file may come from one writer: cut through a fixed shuffle.
_SHUFFLE_SEED = 0


def load_digits(cache_dir: str | os.PathLike[str] | None = None) -> ExampleSplits:
    """1,437 training, 180 validation and 180 test digits; pixels from 0 to 1.

    They are read from the cache, and prepared there first where they are missing.

    Args:
        cache_dir: as in `load`.

    Fails: `DataError` where scikit-learn is not installed, and where the prepared
    digits are damaged or cannot be written.
    """
    recipe = Recipe("digits", "jopt_digits", _builder)
    return load_prepared(recipe, split(read_package()), digest, _read, cache_dir)


def read_package() -> np.ndarray:
    """uint8 (1797, 65): 64 pixels from 0 to 16 and the class, without the import."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the digits need the package scikit-learn, which is not installed; run\n"
            "  pip install scikit-learn"
        )
    file = Path(spec.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    try:
        with gzip.open(file, "rt") as lines:
            rows = np.loadtxt(lines, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot read the digits of the package scikit-learn: {error}; run\n"
            "  pip install --force-reinstall scikit-learn"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != PIXELS + 1:
        raise DataError(f"{file} has shape {rows.shape}, expected (1797, {PIXELS + 1})")
    return rows.astype(np.uint8)


def split(rows: np.ndarray) -> ExampleSplits:
    """The first 80 %, the next 10 % and the last 10 % of a fixed shuffle."""
    order = np.random.Generator(np.random.Philox(_SHUFFLE_SEED)).permutation(len(rows))
    first, second = len(rows) * 8 // 10, len(rows) * 9 // 10
    parts = np.split(rows[order], [first, second])
    return ExampleSplits(*(_examples(part) for part in parts))


def digest(splits: ExampleSplits) -> str:
    """64 bits of SHA-256 over pixels and classes of the three splits, in hex."""
    whole = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.test):
        whole.update(part.inputs.tobytes() + part.targets.tobytes())
    return whole.hexdigest()[:16]


def pixels(examples: Examples) -> np.ndarray:
    """uint8 (N, 64), from 0 to 16 as in the source."""
    return np.rint(examples.inputs * _DARKEST).astype(np.uint8)


def _examples(rows: np.ndarray) -> Examples:
    return Examples(
        inputs=rows[:, :PIXELS].astype(np.float32) / np.float32(_DARKEST),
        targets=rows[:, PIXELS].astype(np.int32),
        domains=np.zeros(len(rows), np.int32),
        class_names=CLASSES,
        domain_names=("digits",),
    )


def _builder() -> type:
    from jopt.data._digits_builder import JoptDigits

    return JoptDigits


def _read(builder: Any) -> ExampleSplits:
    def examples(name: str) -> Examples:
        rows = [
            np.append(r["image"].ravel(), r["label"]) for r in records(builder, name)
        ]
        return _examples(np.asarray(rows, np.uint8))

    return ExampleSplits(examples("train"), examples("validation"), examples("test"))
