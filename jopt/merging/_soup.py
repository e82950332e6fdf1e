"""The greedy soup: an average of those models that do not make it worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jopt.errors import ConfigError
from jopt.merging._merge import merge
from jopt.merging._reduce import mean
from jopt.tree import PyTree


def greedy_soup(
    models: Sequence[PyTree], eval_fn: Callable[[PyTree], Any], **arguments: Any
) -> tuple[PyTree, list[int]]:
    """The average of a chosen few, and their numbers in the order they were taken.

    Models are tried from the best validation score down, equal ones in their order; one
    stays in if the average with it scores no less than without it.

    Args:
        eval_fn: parameters -> validation score, larger is better.
        arguments: `where` and `strict` of `merge`; other leaves are the best model's.

    Cost: 2 T - 1 evaluations.

    References: Wortsman et al. 2022, Model soups, arXiv 2203.05482.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array(x)} for x in (0.0, 2.0, 9.0)]
    >>> soup, chosen = greedy_soup(models, lambda params: -abs(params["w"] - 1.2))
    >>> float(soup["w"]), chosen
    (1.0, [1, 0])
    """
    if not models:
        raise ConfigError("there is no model for a soup; give at least one")
    scores = [float(eval_fn(model)) for model in models]
    order = sorted(range(len(models)), key=lambda t: -scores[t])
    chosen, soup, best = [order[0]], models[order[0]], scores[order[0]]
    for task in order[1:]:
        tried = [models[t] for t in (*chosen, task)]
        average = merge(models[order[0]], tried, mean(), **arguments)
        score = float(eval_fn(average))
        if score >= best:
            chosen, soup, best = [*chosen, task], average, score
    return soup, chosen
