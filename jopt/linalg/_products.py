"""Batched matrix products in a chosen dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jopt.linalg._policy import bfloat16_result, triangle_edges

# S stacked matrices; M, N rows and columns; K columns of a block.
GRAM = "smn,skn->smk"  # of X and its conjugate
SQUARE = "smk,skl->sml"  # of Hermitian matrices that commute
APPLY = "smk,skn->smn"
# The axis of the second factor that becomes the columns, where the result is Hermitian.
COLUMNS = {GRAM: 1, SQUARE: 2}

Product: TypeAlias = Callable[[str, jax.Array, jax.Array], jax.Array]


def products(
    dtype: jax.typing.DTypeLike,
    precision: jax.lax.PrecisionLike = None,
    *,
    result: jax.typing.DTypeLike | None = None,
) -> Product:
    """An einsum whose factors are rounded to `dtype` and whose sums are not.

    Results of `GRAM` and `SQUARE` are taken to be Hermitian: of large ones only one
    triangle is computed (`triangle_edges`).

    Args:
        dtype: of the factors.
        precision: None is the highest for factors of 32 bits and more, which some
            accelerators would otherwise round, and the default for half precision.
        result: dtype of the result. None is `dtype`; for bfloat16 what is faster
            (`bfloat16_result`), and float32 for float16, whose range is small.

    >>> product = products(jnp.float16)
    >>> product(SQUARE, jnp.ones((1, 2, 2)), jnp.ones((1, 2, 2))).dtype
    dtype('float32')
    """
    dtype = jnp.dtype(dtype)
    if precision is None and jnp.finfo(dtype).bits >= 32:
        precision = jax.lax.Precision.HIGHEST
    if result is None:
        wide = jnp.promote_types(dtype, jnp.float32)
        result = bfloat16_result() if dtype == jnp.bfloat16 else wide
    return partial(_product, dtype=dtype, precision=precision, result=jnp.dtype(result))


def _product(
    form: str,
    x: jax.Array,
    y: jax.Array,
    *,
    dtype: jnp.dtype,
    precision: jax.lax.PrecisionLike,
    result: jnp.dtype,
) -> jax.Array:
    # A batched form even for one matrix: XLA on CPU widens a plain two-dimensional
    # bfloat16 `x @ x.T` to float32, at several times the cost.
    product = partial(
        jnp.einsum, form, precision=precision, preferred_element_type=result
    )
    x, y = x.astype(dtype), y.astype(dtype)
    edges = triangle_edges(x.shape[1]) if form in COLUMNS else ()
    if not edges:
        return product(x, y)
    below = [  # the blocks of columns from the diagonal down
        product(x[:, low:], jax.lax.slice_in_dim(y, low, high, axis=COLUMNS[form]))
        for low, high in pairwise(edges)
    ]
    columns_SMK = []
    for number, (low, high) in enumerate(pairwise(edges)):
        above = [
            earlier[:, low - start : high - start].conj().swapaxes(1, 2)
            for start, earlier in zip(edges, below[:number], strict=False)
        ]
        columns_SMK.append(jnp.concatenate([*above, below[number]], axis=1))
    return jnp.concatenate(columns_SMK, axis=2)
