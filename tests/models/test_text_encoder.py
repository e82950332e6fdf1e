"""The encoder of text against NumPy: attention to texts, not to what pads them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.models import text_encoder

SMALL = {
    "vocab_size": 11,
    "context": 6,
    "num_layers": 2,
    "embed_dim": 8,
    "num_heads": 2,
    "num_classes": 3,
    "dropout": 0.0,
}
IDS = np.array([[5, 6, 7, 0], [9, 0, 0, 0]])


def drawn(pool):
    """The model with parameters that are all large, and different."""
    model = text_encoder({**SMALL, "pool": pool})
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": IDS})[0]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.standard_normal(x.shape), x.dtype), shapes
    )
    # So that no feature is cut off before the head.
    params["pool"]["bias"] += 9.0
    return model, params


def logits(model, params, ids):
    batch = {"inputs": jnp.asarray(ids)}
    return np.asarray(model.apply(params, {}, batch, key=None, train=False)[0])


def linear(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def norm(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def reference(params, ids, pool):
    """One text without padding, position by position."""
    x = np.asarray(params["embed"]["embedding"], np.float64)[ids]
    x = norm(
        x + np.asarray(params["positions"]["embedding"])[: len(ids)],
        params["embed_norm"],
    )
    for number in range(SMALL["num_layers"]):
        block = params["blocks"][str(number)]
        q, k, v = (linear(x, block["attn"][name]) for name in "qkv")
        heads = []
        for part in np.split(np.arange(8), SMALL["num_heads"]):
            scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        mixed = linear(np.concatenate(heads, -1), block["attn"]["o"])
        x = norm(x + mixed, block["attn_norm"])
        hidden = linear(gelu(linear(x, block["mlp"]["up"])), block["mlp"]["down"])
        x = norm(x + hidden, block["mlp_norm"])
    pooled = x.mean(0) if pool == "mean" else x[0]
    return linear(np.maximum(linear(pooled, params["pool"]), 0), params["head"])


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_a_text_is_what_numpy_makes_of_it_whatever_pads_it(pool):
    model, params = drawn(pool)
    found = logits(model, params, IDS)
    assert abs(found[0] - found[1]).max() > 0.01
    for row, ids in zip(found, ([5, 6, 7], [9]), strict=True):
        np.testing.assert_allclose(row, reference(params, ids, pool), rtol=1e-5)
    longer = np.pad(IDS, ((0, 0), (0, 2)))
    np.testing.assert_allclose(logits(model, params, longer), found, rtol=1e-5)
    assert np.isfinite(logits(model, params, np.zeros((1, 4), int))).all()
