"""Named methods that are short chains."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from jopt.errors import check_choice
from jopt.merging._chain import chain
from jopt.merging._consensus import consensus
from jopt.merging._reduce import mean
from jopt.merging._reduce import sum as sum_tasks
from jopt.merging._signs import (
    Vote,
    ZeroSign,
    disjoint_max,
    disjoint_mean,
    disjoint_sum,
    elect_sign,
)
from jopt.merging._sparse import dare, drop_outliers
from jopt.merging._transform import MergeTransform
from jopt.merging._trim import Trimming, trim
from jopt.merging._vectors import Where

Function: TypeAlias = Literal["mean", "sum", "max"]
DISJOINT = {"mean": disjoint_mean, "sum": disjoint_sum, "max": disjoint_max}


def average(*, where: Where | None = None) -> MergeTransform:
    """theta = sum_t w_t theta_t / sum_t w_t, which is theta_0 + the mean of tau_t.

    References: Wortsman et al. 2022, Model soups, arXiv 2203.05482.

    >>> average().kind
    'reduce'
    """
    return mean(where=where)


def task_arithmetic(*, where: Where | None = None) -> MergeTransform:
    """tau = sum_t w_t tau_t; the scale of `merge` is lambda.

    Without validation data lambda is 0.3 for eight vision tasks, or 0.4; with them the
    best of linspace(0, 1, 21), see `search_scale`. lambda = 1/T is the average.

    References: Ilharco et al. 2023, Editing models with task arithmetic, arXiv
    2212.04089.

    >>> task_arithmetic().kind
    'reduce'
    """
    return sum_tasks(where=where)


def ties(
    density: Any = 0.2,
    *,
    scope: Trimming = "global",
    election: Vote = "mass",
    zero_sign: ZeroSign | Any = "majority",
    weights_in_election: bool = True,
    function: Function = "mean",
    where: Where | None = None,
) -> MergeTransform:
    """Trim, elect signs, merge what agrees; see `trim`, `elect_sign`, `disjoint_mean`.

    Args:
        density: the part of the entries that is kept of each task.
        scope: `global` trims and counts majorities over the whole vector, as published;
            `leaf` over each tensor, as toolkits for language models do. A `Cut` is for
            merging leaf by leaf, with `zero_sign` `positive` or an array.
        function: `mean` with lambda = 1, `sum` with lambda near 0.3, or `max`.

    References: Yadav et al. 2023, TIES-merging, arXiv 2306.01708. The exact number of
    entries is kept; the reference implementation keeps one more.

    >>> import jax.numpy as jnp
    >>> from jopt.merging import MergeContext
    >>> tasks = {"w": jnp.array([[3, -1, 0.5, 0, 0.2], [-2, 4, 0.1, 0.3, 0.0]])}
    >>> ties(0.4).fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [3.0, 4.0, 0.0, 0.0, 0.0]
    """
    check_choice("function", function, DISJOINT)
    return chain(
        trim(density, scope=scope, where=where),
        _election(scope, election, zero_sign, weights_in_election, where),
        DISJOINT[function](where=where),
    )


def dare_linear(
    p: Any = 0.9, *, rescale: bool = True, where: Where | None = None
) -> MergeTransform:
    """Drop at random and rescale, then add up; see `dare`.

    References: Yu et al. 2024, Language models are super Mario, arXiv 2311.03099.

    >>> sorted(dare_linear(0.5).needs)
    ['key']
    """
    return chain(dare(p, rescale=rescale, where=where), sum_tasks(where=where))


def dare_ties(
    p: Any = 0.9,
    *,
    rescale: bool = True,
    election: Vote = "mass",
    zero_sign: ZeroSign | Any = "majority",
    scope: Literal["global", "leaf"] = "global",
    weights_in_election: bool = True,
    function: Function = "mean",
    where: Where | None = None,
) -> MergeTransform:
    """Drop at random and rescale instead of the trim of `ties`.

    References: Yu et al. 2024, arXiv 2311.03099; Yadav et al. 2023, arXiv 2306.01708.

    >>> sorted(dare_ties(0.5).needs)
    ['key']
    """
    check_choice("function", function, DISJOINT)
    return chain(
        dare(p, rescale=rescale, where=where),
        _election(scope, election, zero_sign, weights_in_election, where),
        DISJOINT[function](where=where),
    )


def breadcrumbs(
    density: Any = 0.9, gamma: Any = 0.01, *, where: Where | None = None
) -> MergeTransform:
    """Drop the largest and the smallest entries of each tensor, then add up.

    References: Davari and Belilovsky 2024, Model breadcrumbs, arXiv 2312.06795.

    >>> breadcrumbs().scope
    'leaf'
    """
    return chain(drop_outliers(density, gamma, where=where), sum_tasks(where=where))


def consensus_ta(
    k: Any = 2, *, thresholds: Any = 0.4, where: Where | None = None
) -> MergeTransform:
    """The sum of task vectors at the entries that at least k tasks use.

    References: Wang et al. 2024, Localizing task information, arXiv 2405.07813.

    >>> consensus_ta().scope
    'leaf'
    """
    return consensus(k, thresholds=thresholds, where=where)


def consensus_ties(
    k: Any = 2,
    *,
    thresholds: Any = 0.4,
    where: Where | None = None,
    **arguments: Any,
) -> MergeTransform:
    """The vector that `ties(**arguments)` gives, where at least k tasks use it.

    References: Wang et al. 2024, arXiv 2405.07813; Yadav et al. 2023, arXiv 2306.01708.

    >>> consensus_ties(scope="leaf").scope
    'leaf'
    """
    reducer = ties(**arguments)
    return consensus(k, thresholds=thresholds, reducer=reducer, where=where)


def _election(
    scope: Trimming,
    election: Vote,
    zero_sign: ZeroSign | Any,
    weights_in_election: bool,
    where: Where | None,
) -> MergeTransform:
    return elect_sign(
        election,
        zero_sign=zero_sign,
        scope="leaf" if scope == "leaf" else "global",
        weights_in_election=weights_in_election,
        where=where,
    )
