"""Sampling from a language model."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.models._model import Model, ModelState, Params

# W positions of the window; V vocabulary.


def generate(
    model: Model,
    params: Params,
    model_state: ModelState,
    prompt: bytes | np.ndarray | jax.Array,
    *,
    key: jax.Array,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    window: int = 256,
) -> jax.Array:
    """Draws `num_tokens` tokens that continue `prompt`; int32, the prompt not included.

    Each token is drawn from softmax(logits / temperature) after the last `window`
    tokens. One compiled program holds the whole loop and is used again for any prompt,
    key and temperature; every token costs one forward pass over the window, since keys
    and values are not kept.

    Args:
        prompt: bytes, or token ids (P,) with P >= 1; only the last `window` are read.
        key: decides the draws; equal keys give equal tokens.
        temperature: 0 takes the most probable token.
        top_k: draws among the k most probable tokens only.
        window: context in tokens.

    >>> from jopt.models import transformer_lm
    >>> model = transformer_lm({"num_layers": 1, "embed_dim": 8, "num_heads": 2})
    >>> params, state = model.init(jax.random.key(0), None)
    >>> key = jax.random.key(1)
    >>> generate(model, params, state, b"To be", key=key, num_tokens=4, window=8).shape
    (4,)
    """
    ids = _ids(prompt, model.vocab_size)
    for name, value, lowest in (("num_tokens", num_tokens, 1), ("window", window, 1)):
        if value < lowest:
            raise ConfigError(f"{name}: expected at least {lowest}, found {value}")
    if top_k is not None and not 1 <= top_k <= model.vocab_size:
        raise ConfigError(
            f"top_k: expected 1 to vocab_size {model.vocab_size}, found {top_k}"
        )
    if not temperature >= 0:
        raise ConfigError(f"temperature: expected at least 0, found {temperature}")
    recent = ids[-window:]
    buffer_W = np.zeros(window, np.int32)
    buffer_W[: recent.size] = recent
    return _sample(
        model,
        num_tokens,
        top_k,
        params,
        model_state,
        jnp.asarray(buffer_W),
        recent.size,
        key,
        jnp.float32(temperature),
    )


def _ids(prompt: bytes | np.ndarray | jax.Array, vocab_size: int) -> np.ndarray:
    raw = np.frombuffer(prompt, np.uint8) if isinstance(prompt, bytes) else prompt
    ids = np.asarray(raw)
    if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError(
            "prompt: expected at least one byte, or token ids of shape (P,), found "
            f"{ids.dtype} {ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ConfigError(
            f"prompt: expected ids from 0 to {vocab_size - 1}, found "
            f"{ids.min()} to {ids.max()}"
        )
    return ids.astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(
    model: Model,
    num_tokens: int,
    top_k: int | None,
    params: Params,
    model_state: ModelState,
    buffer_W: jax.Array,
    length: Any,
    key: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    window = buffer_W.size

    def draw(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        buffer_W, length = carry
        logits, _, _ = model.apply(
            params, model_state, {"inputs": buffer_W[None]}, key=None, train=False
        )
        # What lies behind the last token is later in time, so it has no influence.
        token = _draw(logits[0, length - 1], key, temperature, top_k)
        full = length == window
        buffer_W = jnp.where(full, jnp.roll(buffer_W, -1), buffer_W)
        length = jnp.minimum(length + 1, window)
        return (buffer_W.at[length - 1].set(token), length), token

    keys = jax.random.split(key, num_tokens)
    _, tokens = jax.lax.scan(draw, (buffer_W, jnp.int32(length)), keys)
    return tokens


def _draw(
    logits_V: jax.Array, key: jax.Array, temperature: jax.Array, top_k: int | None
) -> jax.Array:
    logits_V = logits_V.astype(jnp.float32)
    if top_k is not None:
        kept = jax.lax.top_k(logits_V, top_k)[0][-1]
        logits_V = jnp.where(logits_V < kept, -jnp.inf, logits_V)
    warm = jax.random.categorical(
        key, logits_V / jnp.where(temperature, temperature, 1)
    )
    token = jnp.where(temperature > 0, warm, jnp.argmax(logits_V))
    return token.astype(jnp.int32)
