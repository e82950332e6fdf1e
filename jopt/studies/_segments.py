"""Steps of a run in parts: where its scan stops to be looked at."""

from __future__ import annotations


def segments_of(steps: int, length: int) -> list[range]:
    """Steps in parts of one length; the last may be shorter.

    >>> segments_of(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(k, min(k + length, steps)) for k in range(0, steps, length)]
