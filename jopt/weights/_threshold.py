"""The exact k-th largest of magnitudes that are seen a block at a time."""

from __future__ import annotations

import numpy as np

_DIGIT = 16
_BLOCK = 1 << 20  # entries whose digits are counted at a time


class KthLargest:
    """Finds the k-th largest of non-negative numbers in a few sweeps over them.

    Non-negative floats are ordered as the integers that their bits spell. Each sweep
    counts, among the numbers whose leading digits are known to be those of the answer,
    the next digit of 16 bits: two sweeps in float32, four in float64. Memory: 0.5 MB.

    Args:
        k: from 1 to how many numbers there are.
        dtype: float32 or float64, of the numbers.

    >>> found = KthLargest(2, np.dtype("float32"))
    >>> while not found.done:
    ...     for block in ([1.0, 5.0], [3.0, 3.0]):
    ...         found.add(np.array(block, np.float32))
    ...     found.end_sweep()
    >>> float(found.threshold), found.ties
    (3.0, 1)
    """

    def __init__(self, k: int, dtype: np.dtype) -> None:
        self._dtype = np.dtype(dtype)
        self._integer = np.dtype(f"uint{8 * self._dtype.itemsize}")
        self._shift = 8 * self._dtype.itemsize - _DIGIT
        self._left = k
        self._prefix = 0
        self._counts = np.zeros(1 << _DIGIT, np.int64)

    @property
    def done(self) -> bool:
        """Whether no sweep is left to do."""
        return self._shift < 0

    @property
    def threshold(self) -> np.ndarray:
        """The k-th largest number."""
        return self._integer.type(self._prefix).view(self._dtype)

    @property
    def ties(self) -> int:
        """How many numbers equal to the threshold are among the k largest."""
        return self._left

    def add(self, magnitudes: np.ndarray) -> None:
        """A block of the numbers; each sweep must be given all of them."""
        flat = magnitudes.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            spelled = np.ascontiguousarray(block).view(self._integer)
            digits = spelled >> self._integer.type(self._shift)
            inside = digits >> self._integer.type(_DIGIT) == self._prefix
            low = digits[inside] & self._integer.type((1 << _DIGIT) - 1)
            self._counts += np.bincount(low.astype(np.intp), minlength=1 << _DIGIT)

    def end_sweep(self) -> None:
        """Fixes the next digit: the one in which the k-th largest lies."""
        from_top = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(from_top, self._left))
        if place:
            self._left -= int(from_top[place - 1])
        digit = (1 << _DIGIT) - 1 - place
        self._prefix = (self._prefix << _DIGIT) | digit
        self._shift -= _DIGIT
        self._counts[:] = 0
