"""What coins and pairings are drawn from: a key of threefry, as raw data in a state."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_IMPL = "threefry2x32"
_WORDS = (2,)


def key_data(key: jax.Array | None) -> jax.Array:
    """uint32 (2,), data of a key of threefry; zeros for no key.

    A key of another kind, such as `rbg`, gives two words to begin from: its own draws
    are not the same under `vmap`, and a coin must be the same wherever replicas lie.

    Args:
        key: typed, or raw data: two words are threefry's, others are a key of the kind
            that `jax_default_prng_impl` names.

    >>> key_data(jax.random.key(3)).tolist()
    [0, 3]
    >>> key_data(jax.random.key(3, impl="rbg")).shape
    (2,)
    """
    if key is None:
        return jnp.zeros(_WORDS, jnp.uint32)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == _WORDS:
            return jnp.array(key)
        key = jax.random.wrap_key_data(key)
    if jax.random.key_impl(key) == _IMPL:
        return jax.random.key_data(key)
    return jax.random.bits(key, _WORDS, jnp.uint32)


def key_of(data: jax.Array) -> jax.Array:
    """The key whose data these are, whichever kind is the default.

    >>> key_of(key_data(jax.random.key(3))) == jax.random.key(3)
    Array(True, dtype=bool)
    """
    return jax.random.wrap_key_data(data, impl=_IMPL)
