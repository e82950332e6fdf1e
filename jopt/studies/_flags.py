"""Types of flags that studies share."""

from __future__ import annotations

from collections.abc import Sequence


def names_of(text: str) -> Sequence[str]:
    """Names with commas between them.

    >>> names_of("sgd,adam")
    ('sgd', 'adam')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())
