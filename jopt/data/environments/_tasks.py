"""Tasks over environments by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

from jopt.data.environments._coloured import coloured_task, original_task
from jopt.data.environments._genres import genres_task
from jopt.data.environments._turned import (
    collections_task,
    corrupted_task,
    rotated_task,
)
from jopt.data.environments._types import DomainTask
from jopt.errors import check_choice

# Each is given its name. Sets on the user's disk are read by `folders_task`,
# `wilds_task`.
TASKS: dict[str, Callable[[str], DomainTask]] = {
    "coloured_digits": partial(coloured_task, source="digits"),
    "coloured_mnist5k": partial(coloured_task, source="mnist5k", resolution="half"),
    "coloured_mnist": partial(coloured_task, source="mnist60k"),
    "coloured_mnist_original": original_task,
    "rotated_digits": partial(rotated_task, source="digits"),
    "rotated_mnist5k": partial(rotated_task, source="mnist5k"),
    "rotated_mnist": partial(rotated_task, source="mnist60k"),
    "corrupted_digits": partial(corrupted_task, source="digits"),
    "corrupted_mnist5k": partial(corrupted_task, source="mnist5k"),
    "collections": collections_task,
    "genres": genres_task,
}


@functools.lru_cache(maxsize=1)
def load_task(name: str) -> DomainTask:
    """The task of this name, with its data in memory; the last one is kept.

    Args:
        name: a key of `TASKS`.

    Fails: `ConfigError` for an unknown name; `DataError` where a package that holds the
    data is not installed, with the command.

    >>> task = load_task("coloured_digits")
    >>> [(env.name, env.source.size) for env in task.envs]
    [('+90%', 599), ('+80%', 599), ('-90%', 599)]
    """
    check_choice("task", name, TASKS)
    return TASKS[name](name)
