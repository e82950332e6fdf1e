"""Which examples of an environment are held out: permutations by seed, no copies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

HOLDOUT = 0.2


def seed_hash(*words: Any) -> int:
    """A seed from numbers and names, the same on every machine.

    The MD5 of `str` of their tuple, modulo 2^31, as DomainBed makes its seeds.

    >>> seed_hash(0, "lr")
    1017368932
    """
    return int(hashlib.md5(str(words).encode()).hexdigest(), 16) % 2**31


def holdout(
    size: int, trial_seed: int, environment: int, *, fraction: float = HOLDOUT
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples to train on, and of those held out.

    Of a shuffle by `seed_hash(trial_seed, environment)`, the first int(N fraction) are
    held out. Nothing else has a say, so all algorithms and optimizers of a trial seed
    see the same.

    >>> inside, outside = holdout(10, trial_seed=0, environment=1)
    >>> len(outside), sorted([*inside, *outside]) == list(range(10))
    (2, True)
    """
    order = _shuffled(size, trial_seed, environment)
    cut = int(size * fraction)
    return order[cut:], order[:cut]


def as_published(
    held_out_N: np.ndarray, trial_seed: int, environment: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers to train on and held out, as a published split has them, shuffled.

    >>> inside, outside = as_published(np.array([False, True, False]), 0, 1)
    >>> sorted(inside.tolist()), outside.tolist()
    ([0, 2], [1])
    """
    order = _shuffled(len(held_out_N), trial_seed, environment)
    return order[~held_out_N[order]], order[held_out_N[order]]


def _shuffled(size: int, trial_seed: int, environment: int) -> np.ndarray:
    random = np.random.RandomState(seed_hash(trial_seed, environment))
    return random.permutation(size)
