"""Which merge methods a config can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jopt.errors import ConfigError, check_choice
from jopt.merging import _recipes as recipes
from jopt.merging._fisher import fisher
from jopt.merging._iso import iso_c, iso_cts
from jopt.merging._model_stock import model_stock
from jopt.merging._pcb import pcb
from jopt.merging._regmean import regmean
from jopt.merging._transform import MergeTransform
from jopt.merging._tsv import tsv_m
from jopt.merging._wudi import wudi


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
    "dare_linear": Method(recipes.dare_linear, "arXiv 2311.03099"),
    "dare_ties": Method(recipes.dare_ties, "arXiv 2311.03099"),
    "breadcrumbs": Method(recipes.breadcrumbs, "arXiv 2312.06795"),
    "consensus_ta": Method(recipes.consensus_ta, "arXiv 2405.07813"),
    "consensus_ties": Method(recipes.consensus_ties, "arXiv 2405.07813"),
    "tsv_m": Method(tsv_m, "arXiv 2412.00081"),
    "iso_c": Method(iso_c, "arXiv 2502.04959"),
    "iso_cts": Method(iso_cts, "arXiv 2502.04959"),
    "fisher": Method(fisher, "arXiv 2111.09832"),
    "regmean": Method(regmean, "arXiv 2212.09849"),
    "model_stock": Method(model_stock, "arXiv 2403.19522"),
    "wudi": Method(wudi, "arXiv 2503.08099"),
    "pcb": Method(pcb, "arXiv 2410.02396"),
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
