"""Merge transforms one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jopt.errors import ConfigError, check_choice
from jopt.merging._reduce import weighted_sum
from jopt.merging._transform import Kind, MergeContext, MergeTransform
from jopt.tree import PyTree

# The order that a chain must keep; tasks are there before "reduce" and gone after it.
STAGE = {"per_task": 0, "joint": 0, "reduce": 1, "post": 2}


def chain(*transforms: MergeTransform) -> MergeTransform:
    """Applies transforms in turn: (per_task | joint)*, then one reduce, then post*.

    The chain is a `reduce` transform itself. Where it has no reducer, the weighted sum
    of the tasks stands in its place.

    Fails: `ConfigError`, a `ValueError`, for a wrong order or a second reducer.

    >>> from jopt.merging import disjoint_mean, elect_sign, trim
    >>> ties = chain(trim(0.2), elect_sign(), disjoint_mean())
    >>> ties.kind, ties.scope
    ('reduce', 'global')
    >>> chain(disjoint_mean(), trim(0.2))
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: the chain reduce, per_task has per_task after reduce; \
expected per_task or joint transforms, then one reduce, then post
    """
    kinds = [transform.kind for transform in transforms]
    for kind in kinds:
        check_choice("kind of merge transform", kind, STAGE)
    _check_order(kinds)
    steps = list(transforms)
    if "reduce" not in kinds:
        steps.insert(sum(STAGE[kind] == 0 for kind in kinds), weighted_sum())

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        for step in steps:
            tree = step.fn(tree, context)
        return tree

    scopes = {step.scope for step in steps}
    return MergeTransform(
        "reduce",
        fn,
        scope="leaf" if scopes == {"leaf"} else "global",
        needs=frozenset().union(*(step.needs for step in steps)),
    )


def _check_order(kinds: Sequence[Kind]) -> None:
    said = f"the chain {', '.join(kinds)}"
    expected = "; expected per_task or joint transforms, then one reduce, then post"
    if kinds.count("reduce") > 1:
        raise ConfigError(f"{said} has {kinds.count('reduce')} reducers{expected}")
    for before, after in itertools.pairwise(kinds):
        if STAGE[after] < STAGE[before]:
            raise ConfigError(f"{said} has {after} after {before}{expected}")
