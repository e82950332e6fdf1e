"""The sets of environments that a run can name: what is known of each without data."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jopt.data.environments._folders import FOLDER_SETS, SIDE, folders_task
from jopt.data.environments._genres import VOCABULARY, genres_task
from jopt.data.environments._tasks import load_task
from jopt.data.environments._types import DomainTask, train_envs
from jopt.data.environments._wilds import wilds_task
from jopt.data.environments._wilds_schemes import IDENTITIES, SCHEMES, last_quarter
from jopt.errors import ConfigError, DataError, check_choice

Folder = str | os.PathLike[str] | None


class Asked(NamedTuple):
    """How a set is to be read; what does not apply to a set is not looked at.

    Attributes:
        root: the folder of a set that is on the user's disk.
        image_size: pixels of a side, of images in folders.
        seq_len: bytes of a window of text.
        environments: of a set with many: how many of the largest are kept.
    """

    root: Folder = None
    image_size: int = SIDE
    seq_len: int = 128
    environments: int | None = None


PACKAGED = Asked()  # nothing on the user's disk


class EnvironmentSet(NamedTuple):
    """Environments of one question, without having them loaded.

    Attributes:
        num_environments: those for training and those for the test.
        input_shape: of one example.
        num_classes: C; of text the vocabulary.
        test_envs: never trained on, unless a run names others.
        kind: what is predicted, `classification` or `language_model`.
        load: reads it; fails with `DataError`.
        over_tests: how accuracies of test environments are put together beside their
            mean: `mean` for not at all, `worst`, `percentile_10`.
    """

    num_environments: int
    input_shape: tuple[int, ...]
    num_classes: int
    test_envs: tuple[int, ...]
    kind: str
    load: Callable[[], DomainTask]
    over_tests: str = "mean"

    @property
    def train_envs(self) -> tuple[int, ...]:
        return train_envs(self.num_environments, self.test_envs)


def environment_set(name: str, asked: Asked = PACKAGED) -> EnvironmentSet:
    """What is known of a set before its data are read.

    Of `folders`, which may have any environments and classes, the folders are listed.

    Args:
        name: a key of `ENVIRONMENT_SETS`.
        asked: see there.

    Fails: `ConfigError` for an unknown name; `DataError` as `folders_task`.

    >>> found = environment_set("pacs", Asked(root="not/there"))
    >>> found.num_environments, found.input_shape, found.num_classes
    (4, (224, 224, 3), 7)
    """
    check_choice("data.name", name, ENVIRONMENT_SETS)
    return ENVIRONMENT_SETS[name](name, asked)


def read_set(name: str, asked: Asked = PACKAGED) -> DomainTask:
    """The environments of a set, with data in memory where it is small.

    Fails: `DataError` where they are not what is known of the set.

    >>> [env.name for env in read_set("coloured_digits").envs]
    ['+90%', '+80%', '-90%']
    """
    known = environment_set(name, asked)
    task = known.load()
    found = (len(task.envs), tuple(task.input_shape), task.num_classes)
    if found != tuple(known[:3]):
        where = "" if asked.root is None else f"{asked.root}: "
        raise DataError(
            f"{where}{name} has {known.num_environments} environments of inputs "
            f"{known.input_shape} in {known.num_classes} classes; found {found[0]} of "
            f"{found[1]} in {found[2]}"
        )
    return task


def _packaged(
    count: int, shape: tuple[int, ...], classes: int, test: int
) -> Callable[[str, Asked], EnvironmentSet]:
    def described(name: str, asked: Asked) -> EnvironmentSet:
        load = partial(load_task, name)
        return EnvironmentSet(count, shape, classes, (test,), "classification", load)

    return described


def _genres(name: str, asked: Asked) -> EnvironmentSet:
    load = partial(genres_task, name, seq_len=asked.seq_len)
    return EnvironmentSet(6, (asked.seq_len,), VOCABULARY, (5,), "language_model", load)


def _published_folders(name: str, asked: Asked) -> EnvironmentSet:
    known, side = FOLDER_SETS[name], asked.image_size
    return EnvironmentSet(
        len(known.environments),
        (side, side, 3),
        known.num_classes,
        (0,),
        "classification",
        lambda: folders_task(_root(name, asked), name, side=side),
    )


def _own_folders(name: str, asked: Asked) -> EnvironmentSet:
    task = folders_task(_root(name, asked), name, side=asked.image_size)
    shape, tests = task.input_shape, task.default_test_envs
    known = (len(task.envs), shape, task.num_classes, tests)
    return EnvironmentSet(*known, "classification", lambda: task)


def _camelyon17(name: str, asked: Asked) -> EnvironmentSet:
    """Five hospitals, of which number 2 is the test."""
    return _wilds(name, 5, (2,), lambda: wilds_task(name, _root(name, asked)))


def _civilcomments(name: str, asked: Asked) -> EnvironmentSet:
    """Groups, and again those of the published test, which are the last half."""
    groups = 2 * len(IDENTITIES)
    tests = tuple(range(groups, 2 * groups))
    return _wilds(name, 2 * groups, tests, lambda: wilds_task(name, _root(name, asked)))


def _amazon(name: str, asked: Asked) -> EnvironmentSet:
    """Of thousands of users those with most reviews; the last quarter is the test."""
    count = asked.environments
    if count is None:
        raise ConfigError(
            f"{name} has thousands of environments; data.environments says how many of "
            "the largest are read"
        )

    def load() -> DomainTask:
        return wilds_task(name, _root(name, asked), largest=count)

    return _wilds(name, count, last_quarter(count), load)


def _wilds(
    name: str, count: int, tests: tuple[int, ...], load: Callable[[], DomainTask]
) -> EnvironmentSet:
    scheme = SCHEMES[name]
    return EnvironmentSet(
        count,
        scheme.input_shape,
        len(scheme.classes),
        tests,
        "classification",
        load,
        scheme.over_tests,
    )


def _root(name: str, asked: Asked) -> str | os.PathLike[str]:
    if asked.root is None:
        raise ConfigError(
            f"{name} is read from a folder of yours; name it in data.root"
        )
    return asked.root


ENVIRONMENT_SETS: dict[str, Callable[[str, Asked], EnvironmentSet]] = {
    "coloured_digits": _packaged(3, (8, 8, 2), 2, 2),
    "coloured_mnist5k": _packaged(3, (14, 14, 2), 2, 2),
    "coloured_mnist": _packaged(3, (28, 28, 2), 2, 2),
    "coloured_mnist_original": _packaged(3, (14, 14, 2), 2, 2),
    "rotated_digits": _packaged(6, (8, 8, 1), 10, 0),
    "rotated_mnist5k": _packaged(6, (28, 28, 1), 10, 0),
    "rotated_mnist": _packaged(6, (28, 28, 1), 10, 0),
    "corrupted_digits": _packaged(7, (8, 8, 1), 10, 0),
    "corrupted_mnist5k": _packaged(7, (28, 28, 1), 10, 0),
    "collections": _packaged(2, (14, 14, 1), 10, 1),
    "genres": _genres,
    **dict.fromkeys(FOLDER_SETS, _published_folders),
    "folders": _own_folders,
    "camelyon17": _camelyon17,
    "civilcomments": _civilcomments,
    "amazon": _amazon,
}
# These are read from `Asked.root`.
ON_DISK = (*FOLDER_SETS, "folders", *SCHEMES)
