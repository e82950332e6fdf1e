"""From stored pixels to the inputs of a model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Pixels(NamedTuple):
    """Inputs are (x / white - mean) / std, channel by channel, in float32.

    >>> Pixels(255.0, (0.5,), (0.25,)).normed(np.array([[0], [255]], np.uint8))
    array([[-2.],
           [ 2.]], dtype=float32)
    """

    white: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def light(self, stored: np.ndarray) -> np.ndarray:
        """float32 in [0, 1], 1 for the lightest value."""
        light = np.asarray(stored, np.float32)
        return light if self.white == 1 else light / np.float32(self.white)

    def normed(self, stored: np.ndarray) -> np.ndarray:
        """What a model is given."""
        return self.centred(self.light(stored))

    def centred(self, light: np.ndarray) -> np.ndarray:
        """The second half of `normed`, from lightness in [0, 1]."""
        if (self.mean, self.std) == ((0.0,), (1.0,)):
            return light
        mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
        return (light - mean) / std


AS_STORED = Pixels()
