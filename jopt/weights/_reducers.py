"""How task vectors in files become a merged one, in little memory where that is exact.

A reducer is made once, which may read the files, and then gives the merged vector of
one leaf after the other, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.merging import (
    Cut,
    MergeContext,
    MergeTransform,
    cut_leaf,
    make_context,
    reduce_tasks,
    sign_balance,
    ties,
)
from jopt.merging._trim import kept_count
from jopt.tree import named_leaves
from jopt.weights._recipe import Recipe
from jopt.weights._sources import Sources
from jopt.weights._threshold import KthLargest
from jopt.weights._weights import nested

# T tasks; P entries of a leaf.

# (leaf, base, task vectors (T, ...)) -> merged vector.
Reducer = Callable[[str, np.ndarray, jax.Array], jax.Array]
Say = Callable[[str], None]
_MOST_TIES = np.iinfo(np.int32).max


class Reducing(NamedTuple):
    """How a recipe is carried out.

    Attributes:
        how: in words.
        reads: how often each file is read.
        make: (sources, context, say) -> the reducer.
    """

    how: str
    reads: int
    make: Callable[[Sources, MergeContext, Say], Reducer]


def reducing(recipe: Recipe, transform: MergeTransform, wide: np.dtype) -> Reducing:
    """The cheapest way in memory to carry out a recipe exactly.

    Args:
        recipe: whose `transform` it is.
        transform: what is computed.
        wide: the widest type of a task vector.
    """
    if transform.scope == "leaf":
        return Reducing(
            "leaf by leaf", 1, lambda sources, context, say: _each(transform, context)
        )
    if recipe.method == "ties" and not recipe.stages:
        sweeps = wide.itemsize // 2
        return Reducing(
            f"leaf by leaf; one global threshold by {sweeps} passes, one for signs",
            sweeps + 2,
            lambda *given: _ties(recipe.kwargs, *given),
        )
    return Reducing(
        "all at once: this method looks at whole vectors",
        1,
        lambda sources, context, say: _at_once(transform, sources, context),
    )


def context_of(sources: Sources, seed: int) -> MergeContext:
    """Weights and key; the base is put in leaf by leaf."""
    weights = [task.weight for task in sources.tasks]
    return make_context({}, len(weights), weights=weights, key=jax.random.key(seed))


def _each(transform: MergeTransform, context: MergeContext) -> Reducer:
    def reduce_leaf(leaf: str, base: np.ndarray, vectors: jax.Array) -> jax.Array:
        own = context._replace(base={leaf: base})
        return reduce_tasks(transform, {leaf: vectors}, own)[leaf]

    return reduce_leaf


def _at_once(
    transform: MergeTransform, sources: Sources, context: MergeContext
) -> Reducer:
    read = {leaf: sources.vectors(leaf) for leaf in sources.merged}
    base = nested({leaf: base for leaf, (base, _) in read.items()})
    vectors = nested({leaf: vectors for leaf, (_, vectors) in read.items()})
    del read
    whole = reduce_tasks(transform, vectors, context._replace(base=base))
    merged = named_leaves(whole)
    return lambda leaf, base, vectors: merged[leaf]


def _ties(
    kwargs: Mapping[str, Any], sources: Sources, context: MergeContext, say: Say
) -> Reducer:
    """TIES with thresholds over whole vectors, which are found before anything merges.

    Exactly what the method does at once: the k-th largest magnitude is found by
    counting, entries equal to it are kept in the order of JAX's paths, and the majority
    of the elected signs is counted over all leaves.
    """
    given = dict(kwargs)
    density = given.pop("density", 0.2)
    zero_sign = given.pop("zero_sign", "majority")
    election = given.get("election", "mass")
    weighted_vote = given.get("weights_in_election", True)
    cuts, balance = {}, 0
    cut, left_T = _global_cut(sources, density, say)
    say("counting signs")
    for leaf in sources.merged:
        _, vectors = sources.vectors(leaf)
        cuts[leaf] = own = _with_ties(cut, left_T)
        kept, after = cut_leaf(vectors, own)
        left_T = left_T - (np.asarray(own.ties) - np.asarray(after.ties))
        balance += int(sign_balance({leaf: kept}, context, election, weighted_vote))
    if zero_sign == "majority":
        zero_sign = jnp.asarray(np.sign(balance))
    given["zero_sign"] = zero_sign

    def reduce_leaf(leaf: str, base: np.ndarray, vectors: jax.Array) -> jax.Array:
        transform = ties(density, **{**given, "scope": cuts[leaf]})
        return _each(transform, context)(leaf, base, vectors)

    return reduce_leaf


def _global_cut(
    sources: Sources, density: Any, say: Say
) -> tuple[np.ndarray, np.ndarray]:
    """Threshold (T,) of each task over all leaves, and how many equal to it stay."""
    k = kept_count(density, sources.entries())
    wide = np.result_type(*(np.finfo(sources.wide(x)).dtype for x in sources.merged))
    found = [KthLargest(k, wide) for _ in sources.tasks]
    while not found[0].done:
        say("looking for the thresholds")
        for leaf in sources.merged:
            sizes_T = np.abs(np.asarray(sources.vectors(leaf)[1]))
            for search, size in zip(found, sizes_T, strict=True):
                search.add(size.astype(wide, copy=False))
        for search in found:
            search.end_sweep()
    thresholds = np.stack([search.threshold for search in found])
    return thresholds, np.array([search.ties for search in found])


def _with_ties(threshold: np.ndarray, left_T: np.ndarray) -> Cut:
    """A cut for one leaf, whose entries are counted in 32 bits."""
    ties_T = np.minimum(left_T, _MOST_TIES).astype(np.int32)
    return Cut(jnp.asarray(threshold), jnp.asarray(ties_T))
