"""Random changes of training images, drawn for each example and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# B rows of a batch; N examples of an epoch; H, W height and width; C channels.


class Augmentation(NamedTuple):
    """Zeros around the image, a random part of the old size, and a random mirror.

    The usual recipe for CIFAR-10 (He et al., 2015, arXiv 1512.03385, section 4.2): 4
    pixels, all (2 pad + 1)^2 places equally probable, mirrored left to right with
    probability one half. It changes pixels as stored, so the border is black, also
    where inputs are centred afterwards.

    Attributes:
        pad: pixels on each side.
        mirror: whether half of the images are mirrored.
    """

    pad: int = 4
    mirror: bool = True

    def draw(
        self, random: np.random.Generator, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places (N, 2) in [0, 2 pad] and mirrors (N,), True or False, of an epoch."""
        places = random.integers(0, 2 * self.pad + 1, size=(size, 2))
        return places, random.random(size) < (0.5 if self.mirror else 0.0)

    def apply(self, images: np.ndarray, drawn: Sequence[np.ndarray]) -> np.ndarray:
        """The changed images (B, H, W, C), of the same dtype, by rows of `draw`.

        >>> image = np.arange(9).reshape(1, 3, 3, 1)
        >>> drawn = np.array([[2, 1]]), np.array([False])
        >>> Augmentation(1).apply(image, drawn)[0, :, :, 0]
        array([[3, 4, 5],
               [6, 7, 8],
               [0, 0, 0]])
        """
        places_B2, mirrors_B = drawn
        height, width = images.shape[1:3]
        pad = self.pad
        padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        rows_BH = places_B2[:, :1] + np.arange(height)
        columns_BW = places_B2[:, 1:] + np.arange(width)
        columns_BW = np.where(mirrors_B[:, None], columns_BW[:, ::-1], columns_BW)
        row_of = np.arange(len(images))[:, None, None]
        return padded[row_of, rows_BH[:, :, None], columns_BW[:, None, :]]


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop": Augmentation(mirror=False),
    "crop_mirror": Augmentation(),
}
