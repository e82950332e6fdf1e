"""The two halves of a set: one to pre-train on, one that makes the shifted task."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jopt.data import Examples
from jopt.data.environments import (
    DomainTask,
    coloured_task,
    corrupted_task,
    folders_task,
    pool,
    rotated_task,
)
from jopt.errors import ConfigError, DataError, check_choice

# N images; H, W height and width; C channels.

PATCH = 4  # images are filled up to a multiple of it, for transformers
LARGEST = 20  # pixels; a larger side is halved
HELD_OUT = 0.2  # of the pre-training half


class Shift(NamedTuple):
    """How a set becomes several environments.

    Attributes:
        make: (name, examples) -> task.
        channels: of its images; grey images are repeated in as many for pre-training.
    """

    make: Callable[[str, Examples], DomainTask]
    channels: int = 1


SHIFTS = {
    "rotated": Shift(rotated_task),
    "corrupted": Shift(corrupted_task),
    "coloured": Shift(coloured_task, channels=2),
}
# As tasks are named -> keys of `jopt.data.environments.POOLS`.
SETS = {
    "digits": "digits",
    "mnist5k": "mnist5k",
    "mnist": "mnist60k",
    "fashion": "fashion60k",
}
TASKS = tuple(f"{shift}_{name}" for shift in SHIFTS for name in SETS)


class Halves(NamedTuple):
    """What is pre-trained on, and the task that models are judged by.

    Attributes:
        train, held_out: of the pre-training half.
        task: several environments of the other half.
        numbers: which images of the whole set each part has, by name of the part:
            `pre-training`, `held out`, and the environments.
        source: the name of the set.
    """

    train: Examples
    held_out: Examples
    task: DomainTask
    numbers: Mapping[str, np.ndarray]
    source: str


@functools.lru_cache(maxsize=1)
def load_halves(task: str, seed: int) -> Halves:
    """The halves of a task's set, in memory; the last ones are kept.

    Half of a shuffle by `seed` is for pre-training, of which a fifth is held out.

    Args:
        task: one of `TASKS`.

    Fails: `ConfigError` for another name; `DataError` where the images are not there,
    with the command.

    >>> halves = load_halves("rotated_digits", 0)
    >>> {name: len(x) for name, x in halves.numbers.items()}["pre-training"]
    719
    >>> halves.task.input_shape
    (8, 8, 1)
    """
    check_choice("task", task, TASKS)
    shift, name = task.split("_")
    whole = pool(SETS[name])
    order = np.random.default_rng(seed).permutation(whole.size)
    first, rest = np.split(order, [whole.size // 2])
    held, train = np.split(first, [int(HELD_OUT * len(first))])
    made = SHIFTS[shift].make(task, _some(whole, rest, channels=1))
    # Environment 0 of rotated and corrupted images is the domain of the pre-training.
    found = dataclasses.replace(made, default_test_envs=(len(made.envs) - 1,))
    numbers = {"pre-training": train, "held out": held}
    for env in found.envs:
        assert env.numbers is not None
        numbers[env.name] = rest[env.numbers]
    check_disjoint(numbers)
    channels = SHIFTS[shift].channels
    return Halves(
        _some(whole, train, channels),
        _some(whole, held, channels),
        found,
        numbers,
        name,
    )


def check_disjoint(numbers: Mapping[str, np.ndarray]) -> None:
    """Fails: `DataError` that names two parts with a common example, or one twice.

    >>> check_disjoint({"a": np.array([0, 1]), "b": np.array([2])})
    """
    for name, own in numbers.items():
        if len(np.unique(own)) != len(own):
            raise DataError(f"an example is twice in {name}")
    for (one, first), (other, second) in itertools.combinations(numbers.items(), 2):
        common = np.intersect1d(first, second)
        if len(common):
            raise DataError(
                f"{one} and {other} have {len(common)} examples in common, such as "
                f"number {common[0]}; nothing that is pre-trained on may be judged by"
            )


def share_of(examples: Examples, share: float) -> Examples:
    """The first of the examples; a larger share holds a smaller one."""
    count = share_size(examples.size, share)
    return dataclasses.replace(
        examples,
        inputs=examples.inputs[:count],
        targets=examples.targets[:count],
        domains=examples.domains[:count],
    )


def share_size(size: int, share: float) -> int:
    """How many examples a share of them is.

    >>> share_size(719, 0.3)
    215
    """
    return int(size * share)


def numbers_digest(numbers: np.ndarray) -> str:
    """SHA-256 of int64 numbers in ascending order.

    >>> numbers_digest(np.array([2, 1])) == numbers_digest(np.array([1, 2]))
    True
    """
    return hashlib.sha256(np.sort(numbers).astype("<i8").tobytes()).hexdigest()


@functools.lru_cache(maxsize=1)
def load_folders(root: str, name: str, side: int) -> DomainTask:
    """A task from `root/<environment>/<class>/<image>`, kept; see `folders_task`."""
    return folders_task(root, name, side=side)


def chosen_test_env(task: DomainTask, number: int | None) -> int:
    """The number of the test environment; None is the default one.

    Fails: `ConfigError` for a number that there is not.
    """
    count = len(task.envs)
    if number is None:
        return task.default_test_envs[0]
    if not 0 <= number < count:
        names = ", ".join(f"{e} ({env.name})" for e, env in enumerate(task.envs))
        raise ConfigError(f"--test_env: expected one of {names}, found {number}")
    return number


def reduced(images_NHWC: np.ndarray) -> np.ndarray:
    """Smaller images: means of 2 x 2 pixels of large ones, then zeros around them.

    28 x 28 become 14 x 14 and then 16 x 16, a multiple of the patch; 8 x 8 stay.

    >>> reduced(np.ones((1, 28, 28, 1))).shape, reduced(np.ones((1, 8, 8, 1))).shape
    ((1, 16, 16, 1), (1, 8, 8, 1))
    """
    count, side, _, channels = images_NHWC.shape
    if side > LARGEST:
        cells = (count, side // 2, 2, side // 2, 2, channels)
        images_NHWC = images_NHWC.reshape(cells).mean((2, 4))
        side //= 2
    missing = -side % PATCH
    before = missing // 2
    around = (before, missing - before)
    return np.pad(images_NHWC, [(0, 0), around, around, (0, 0)])


def _some(whole: Examples, numbers: np.ndarray, channels: int) -> Examples:
    images = np.repeat(reduced(whole.inputs[numbers]), channels, axis=-1)
    return dataclasses.replace(
        whole,
        inputs=np.ascontiguousarray(images, np.float32),
        targets=whole.targets[numbers],
        domains=whole.domains[numbers],
    )
