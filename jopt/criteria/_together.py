"""Work on matrices of several weights, done once for each and together for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Found = TypeVar("Found")

# B stacked layers of a weight; M fan-in.


def on_shared_grams(
    fn: Callable[[jax.Array], Found],
    grams: Mapping[str, tuple[jax.Array, jax.Array]],
) -> dict[str, Found]:
    """`fn` of the Gram matrices of each weight, by path.

    Queries, keys and values read one input, so their Gram matrix is one array, and
    counts once. Those of one size are one call: where `fn` iterates, its time on small
    matrices is that of starting many small operations.

    Args:
        fn: of (B, M, M); a tree of arrays (B, ...), each entry from its matrix alone.
        grams: path -> the array as it was given, which tells what is shared, and its
            form (B, M, M) for this weight.

    >>> sizes = []
    >>> def trace(c):
    ...     sizes.append(c.shape)
    ...     return jnp.trace(c, axis1=-2, axis2=-1)
    >>> shared, own = jnp.eye(2), 3 * jnp.eye(2)[None]
    >>> grams = {"q": (shared, shared[None]), "k": (shared, shared[None]),
    ...          "o": (own, own)}
    >>> {path: x.tolist() for path, x in on_shared_grams(trace, grams).items()}
    {'q': [2.0], 'k': [2.0], 'o': [6.0]}
    >>> sizes
    [(2, 2, 2)]
    """
    # Alive as long as `grams` is, so no other array can have its id.
    keys = {path: (id(given), form.shape) for path, (given, form) in grams.items()}
    distinct = {keys[path]: form for path, (_, form) in grams.items()}
    alike: dict[tuple, list[tuple]] = {}
    for key, form in distinct.items():
        alike.setdefault((form.shape[1:], form.dtype), []).append(key)
    found: dict[tuple, Found] = {}
    for group in alike.values():
        ends = np.cumsum([len(distinct[key]) for key in group])
        all_of_them = fn(jnp.concatenate([distinct[key] for key in group]))
        for key, end in zip(group, ends, strict=True):
            rows = slice(end - len(distinct[key]), end)
            found[key] = jax.tree.map(lambda x, rows=rows: x[rows], all_of_them)
    return {path: found[key] for path, key in keys.items()}
