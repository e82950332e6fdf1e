"""Learned embeddings of tokens and of their positions, and their sum."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.errors import ShapeError
from jopt.models._settings import DTYPES
from jopt.models._taps import Taps


class _Sizes(Protocol):
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def compute_dtype(self) -> str: ...


def token_embeddings(config: _Sizes, rngs: nnx.Rngs) -> tuple[nnx.Embed, nnx.Embed]:
    """(V, D) of tokens and (context, D) of positions, normal with deviation .02."""
    tokens, positions = (
        nnx.Embed(
            count,
            config.embed_dim,
            dtype=DTYPES[config.compute_dtype],
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        for count in (config.vocab_size, config.context)
    )
    return tokens, positions


def embedded(
    tokens: nnx.Embed, positions: nnx.Embed, ids_BT: jax.Array, taps: Taps, advice: str
) -> jax.Array:
    """(B, T, D), with the taps `embed/input` and `positions/input`.

    Fails: `ShapeError` for more positions than there are, with the advice.
    """
    length, context = ids_BT.shape[1], positions.num_embeddings
    if length > context:
        raise ShapeError(
            f"inputs have {length} positions, and the model has {context}: {advice}"
        )
    taps.record("embed/input", ids_BT)
    places_T = jnp.arange(length, dtype=jnp.int32)
    taps.record("positions/input", lambda: jnp.broadcast_to(places_T, ids_BT.shape))
    return tokens(ids_BT) + positions(places_T)
