"""QK-clip: each head's products shrink by its own factor, and its logits with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import AttentionSpec, Heads, MatrixSpec
from jopt.models import transformer_lm
from jopt.tree import named_leaves

# L layers; H heads of queries; G of keys; D embedding; K head width.
SMALL = {
    "vocab_size": 11,
    "num_layers": 2,
    "embed_dim": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "qk_norm": False,
}
THRESHOLD = 5.0
ids = jax.random.randint(jax.random.key(7), (4, 6), 0, 11)
BATCH = {"inputs": ids, "targets": ids, "mask": jnp.ones((4, 6))}


def kernels(settings, params):
    """(L, D, H, K) queries, (L, D, G, K) keys and (L, D, G, K) values in NumPy."""
    layers = []
    attention = params["blocks"]
    for number in range(2):
        if settings.get("scan"):
            layer = jax.tree.map(lambda x, n=number: x[n], attention["attn"])
        else:
            layer = attention[str(number)]["attn"]
        if settings.get("fused_qkv"):
            whole = np.asarray(layer["qkv"]["kernel"], np.float64)
            columns = np.split(whole, [16, 24], axis=1)
            heads = [x.reshape(16, -1, 4) for x in columns]
        else:
            heads = [np.asarray(layer[n]["kernel"], np.float64) for n in "qkv"]
        layers.append(heads)
    return [np.stack(x) for x in zip(*layers, strict=True)]


def products(settings, params):
    """W_q^h (W_k^g)^T of every head of queries, (L, H, D, D)."""
    query, key, _ = kernels(settings, params)
    return np.einsum("ldhk,lehk->lhde", query, np.repeat(key, 2, axis=2))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("fused_qkv", [False, True])
def test_each_product_is_scaled_by_its_own_factor(fused_qkv, scan):
    settings = SMALL | {"fused_qkv": fused_qkv, "scan": scan}
    model = transformer_lm(settings)
    params, _ = model.init(jax.random.key(0), BATCH)
    noise = np.random.default_rng(1)
    logits_LH = noise.uniform(1.0, 20.0, (2, 4)).astype(np.float32)
    logits_LH[1, :2] = 2.0  # Two heads of one group, both below.
    named = dict(zip(model.attention, logits_LH, strict=False))
    if scan:
        named = dict.fromkeys(model.attention, jnp.asarray(logits_LH))
    updates = jax.tree.map(
        lambda w: jnp.asarray(0.1 * noise.normal(size=w.shape), w.dtype), params
    )
    tx = jopt.qk_clip(THRESHOLD, attention=model.attention)
    found, state = tx.update(
        updates, tx.init(params), params, max_attention_logits=named
    )
    before = optax.apply_updates(params, updates)
    after = optax.apply_updates(params, found)
    factors = np.minimum(1.0, THRESHOLD / logits_LH)
    expected = products(settings, before) * factors[..., None, None]
    np.testing.assert_allclose(products(settings, after), expected, atol=1e-6)
    # A shared key takes the root of the least factor of its group.
    keys = [kernels(settings, tree)[1] for tree in (before, after)]
    least = np.sqrt(factors.reshape(2, 2, 2).min(-1))
    np.testing.assert_allclose(keys[1], keys[0] * least[:, None, :, None], atol=1e-6)
    values = [kernels(settings, tree)[2] for tree in (before, after)]
    np.testing.assert_array_equal(*values)
    touched = {
        p
        for spec in model.attention.values()
        for p in (spec.queries.path, spec.keys.path)
    }
    for path, update in named_leaves(found).items():
        if path not in touched:
            np.testing.assert_array_equal(update, named_leaves(updates)[path])
    assert state.metrics["max_logit"] == logits_LH.max()
    assert state.metrics["clipped"] == np.sum(logits_LH > THRESHOLD)


def logits_of(model):
    def taps(params):
        return model.apply(
            params, {}, BATCH, key=None, train=False, taps=tuple(model.attention)
        )[2]

    return jax.jit(taps)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"fused_qkv": True}, marks=pytest.mark.slow),
        {"num_kv_heads": 4, "scan": True},
    ],
)
def test_huge_logits_are_below_the_threshold_after_one_step(settings):
    model = transformer_lm(SMALL | settings)
    params, _ = model.init(jax.random.key(0), BATCH)
    # Attention that writes something, so that layers depend on each other.
    leaves, treedef = jax.tree.flatten(params)
    shaken = [
        6.0 * (x + 0.1 * jax.random.normal(jax.random.key(i), x.shape))
        for i, x in enumerate(leaves)
    ]
    params = jax.tree.unflatten(treedef, shaken)
    logits = logits_of(model)
    before = logits(params)
    assert max(float(x.max()) for x in before.values()) > 10 * THRESHOLD

    def loss(params):
        logits, *_ = model.apply(params, {}, BATCH, key=None, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 3])

    grads = jax.jit(jax.grad(loss))(params)
    for rate, slack in ((0.0, 1e-5), (1e-3, 0.02)):
        tx = optax.chain(
            optax.sgd(rate), jopt.qk_clip(THRESHOLD, attention=model.attention)
        )
        updates, _ = tx.update(
            grads, tx.init(params), params, max_attention_logits=before
        )
        # The first layer's inputs are as before; what later layers see is changed by
        # the layers below, which have been clipped as well.
        first = next(iter(model.attention))
        after = logits(optax.apply_updates(params, updates))[first]
        found, old = (np.asarray(x).reshape(-1, 4)[0] for x in (after, before[first]))
        assert found.max() <= THRESHOLD * (1 + slack)
        if rate == 0:
            np.testing.assert_allclose(found, np.minimum(old, THRESHOLD), rtol=1e-4)


VIEW = MatrixSpec((0,), (1, 2)).per_head()
LAYER = {"attn": AttentionSpec(Heads("q", VIEW), Heads("k", VIEW))}
WEIGHTS = {"q": jnp.ones((3, 2, 2)), "k": jnp.ones((3, 2, 2))}


def clipped(logits, attention=LAYER, weights=WEIGHTS, threshold=1.0):
    tx = jopt.qk_clip(threshold, attention=attention)
    none = jax.tree.map(jnp.zeros_like, weights)
    step, state = tx.update(
        none, tx.init(weights), weights, max_attention_logits=logits
    )
    return optax.apply_updates(weights, step), state


def test_microbatches_count_by_their_largest():
    found, state = clipped({"attn": jnp.array([[0.5, 4.0], [16.0, 2.0]])})
    np.testing.assert_allclose(found["q"][0, :, 0], [0.25, 0.5])
    np.testing.assert_array_equal(found["q"], found["k"])
    assert state.metrics["max_logit"] == 16.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_head_that_is_not_finite_is_left_alone(bad):
    found, _ = clipped({"attn": jnp.array([bad, 4.0])})
    np.testing.assert_array_equal(found["q"][0, :, 0], [1.0, 0.5])


def test_normed_layers_are_only_watched():
    normed = {"attn": AttentionSpec(Heads("q", VIEW), Heads("k", VIEW), normed=True)}
    found, state = clipped({"attn": jnp.array([2.0, 4.0])}, normed)
    jax.tree.map(np.testing.assert_array_equal, found, WEIGHTS)
    assert (state.metrics["max_logit"], state.metrics["clipped"]) == (4.0, 0.0)


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="threshold of qk_clip is 0"):
        jopt.qk_clip(0, attention=LAYER)
    with pytest.raises(ConfigError, match="no attention layer"):
        jopt.qk_clip(attention={})
    with pytest.raises(ConfigError, match="no max_attention_logits for attn"):
        clipped({"other": jnp.ones(2)})
    with pytest.raises(ShapeError, match=r"shape \(3,\); q has 2 heads"):
        clipped({"attn": jnp.ones(3)})
    with pytest.raises(ConfigError, match="'k', which is no parameter"):
        clipped({"attn": jnp.ones(2)}, weights={"q": WEIGHTS["q"]})
    odd = WEIGHTS | {"k": jnp.ones((3, 4, 2))}
    with pytest.raises(ShapeError, match="2 heads of queries"):
        clipped({"attn": jnp.ones(2)}, weights=odd)
