"""Which merge methods a config can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jopt.errors import ConfigError, check_choice
from jopt.merging import _recipes as recipes
from jopt.merging._transform import MergeTransform


class Method(NamedTuple):
    """A method that `merge.method` of a config can name.

    Whether it works leaf by leaf and what it needs depends on its arguments; the
    transform that `recipe` makes says so (`MergeTransform.scope`, `.needs`).

    Attributes:
        recipe: arguments -> transform.
        reference: where it was published.
    """

    recipe: Callable[..., MergeTransform]
    reference: str


METHODS: Mapping[str, Method] = {
    "average": Method(recipes.average, "arXiv 2203.05482"),
    "task_arithmetic": Method(recipes.task_arithmetic, "arXiv 2212.04089"),
    "ties": Method(recipes.ties, "arXiv 2306.01708"),
}


def make_transform(
    name: str, kwargs: Mapping[str, Any] | None = None
) -> MergeTransform:
    """The transform of a method by name, as a config gives it.

    Fails: `ConfigError` for an unknown name, or arguments that the method has not.

    >>> make_transform("ties", {"density": 0.1, "scope": "leaf"}).scope
    'leaf'
    """
    check_choice("merge method", name, METHODS)
    try:
        return METHODS[name].recipe(**dict(kwargs or {}))
    except TypeError as error:
        raise ConfigError(f"merge method {name}: {error}") from error
