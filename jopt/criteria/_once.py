"""Work on an array that several weights share, done once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

Found = TypeVar("Found")


def once_each(
    fn: Callable[[jax.Array], Found],
) -> Callable[[jax.Array, jax.Array], Found]:
    """`fn` of a form of an array, once for all weights that share the array.

    Queries, keys and values read one input, so their Gram matrix is one array.

    >>> import jax.numpy as jnp
    >>> calls = []
    >>> count = once_each(lambda x: calls.append(x.shape))
    >>> gram = jnp.eye(2)
    >>> for form in (gram, gram[None], gram[None]):
    ...     _ = count(gram, form)
    >>> calls
    [(2, 2), (1, 2, 2)]
    """
    # The array itself is kept as well, so that no other can get its id.
    seen: dict[tuple, tuple[jax.Array, Found]] = {}

    def of(array: jax.Array, form: jax.Array) -> Found:
        key = id(array), form.shape
        if key not in seen:
            seen[key] = array, fn(form)
        return seen[key][1]

    return of
