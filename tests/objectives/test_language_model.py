"""Cross-entropy of a language model: the mean, the sums, and their edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.models import transformer_lm
from jopt.objectives import Aux, language_model, language_model_sums

KEY = jax.random.key(0)
SMALL = {"vocab_size": 11, "num_layers": 1, "embed_dim": 16, "num_heads": 2}


def batch_of(mask=None, seed=0):
    inputs = jax.random.randint(jax.random.key(seed), (4, 6), 0, 11)
    return {
        "inputs": inputs,
        "targets": jnp.roll(inputs, -1, axis=1),
        "mask": jnp.ones((4, 6)) if mask is None else mask,
        "domain": jnp.array([0, 2, 2, 7]),
    }


HALF = jnp.asarray(np.random.RandomState(0).rand(4, 6) < 0.5, jnp.float32)


@functools.cache
def started(**settings):
    model = transformer_lm({**SMALL, **settings})
    params, state = model.init(KEY, None)
    head = jax.random.normal(KEY, params["head"]["kernel"].shape)
    return model, {**params, "head": {"kernel": head}}, state


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)]
)
def test_value_is_the_masked_mean(dtype, tolerance):
    model, params, state = started(compute_dtype=dtype)
    objective = jax.jit(language_model(model))
    outputs, _, _ = jax.jit(functools.partial(model.apply, train=False))(
        params, state, batch_of(), key=None
    )
    z, y = np.asarray(outputs, np.float64), np.asarray(batch_of()["targets"])
    nats = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y[..., None], -1)[..., 0]
    for mask in (jnp.ones((4, 6)), HALF, 0.25 * HALF):
        value, aux = objective(params, state, batch_of(mask), KEY)
        weights = np.asarray(mask, np.float64)
        assert isinstance(aux, Aux)
        assert value.dtype == jnp.float32 and value.shape == ()
        expected = (nats * weights).sum() / weights.sum()
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        assert aux.metrics["loss"] == value
        np.testing.assert_allclose(aux.metrics["tokens"], weights.sum(), rtol=1e-6)
        accuracy = ((z.argmax(-1) == y) * weights).sum() / weights.sum()
        np.testing.assert_allclose(aux.metrics["accuracy"], accuracy, atol=tolerance)


def test_new_model_scores_log_of_the_vocabulary():
    model, params, state = started()
    params = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    value, aux = jax.jit(language_model(model))(params, state, batch_of(), KEY)
    np.testing.assert_allclose(value, np.log(11), rtol=1e-6)
    # Every logit is equal, and the 11 tokens share the hit.
    np.testing.assert_allclose(aux.metrics["accuracy"], 1 / 11, rtol=1e-6)


def test_empty_mask_gives_zero_and_no_gradient():
    model, params, state = started()
    batch = batch_of(jnp.zeros((4, 6)))
    objective = jax.jit(jax.value_and_grad(language_model(model), has_aux=True))
    (value, aux), grads = objective(params, state, batch, KEY)
    assert value == 0 and aux.metrics["tokens"] == 0 and aux.metrics["accuracy"] == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_masked_targets_have_no_influence():
    model, params, state = started()
    batch = batch_of(HALF)
    other = {**batch, "targets": jnp.where(HALF > 0, batch["targets"], 0)}
    objective = jax.jit(language_model(model))
    assert (
        objective(params, state, batch, KEY)[0]
        == objective(params, state, other, KEY)[0]
    )


def test_large_logits_stay_finite():
    model, params, state = started()
    huge = jax.tree.map(lambda x: 1e8 * x, params)
    value, _ = jax.jit(language_model(model))(huge, state, batch_of(), KEY)
    assert jnp.isfinite(value) and value > 1e6


def test_train_switches_dropout():
    model, params, state = started(dropout=0.5)
    keys = (KEY, jax.random.key(1))
    train, test = (
        [objective(params, state, batch_of(), key)[0] for key in keys]
        for objective in (
            jax.jit(language_model(model, train=on)) for on in (True, False)
        )
    )
    assert train[0] != train[1]
    assert test[0] == test[1]


def test_taps_are_handed_out():
    model, params, state = started()
    names = ["head/input", "blocks/0/attn/max_logits"]
    tapped = jax.jit(language_model(model, taps=names))
    _, aux = tapped(params, state, batch_of(), KEY)
    assert set(aux.taps) == set(names)
    assert aux.taps["head/input"].shape == (4, 6, 16)
    plain = language_model(model)
    assert jax.eval_shape(plain, params, state, batch_of(), KEY)[1].taps == {}
    with pytest.raises(ConfigError, match="did you mean head/input"):
        language_model(model, taps=["head/inputs"])(params, state, batch_of(), KEY)


def test_sums_over_batches_weigh_every_token_alike():
    """Uneven masks: means of means would differ, sums of sums do not."""
    model, params, state = started()
    batches = [batch_of(HALF, seed=0), batch_of(None, seed=1)]
    sums = jax.jit(language_model_sums(model))
    parts = [sums(params, state, b) for b in batches]
    assert set(parts[0]) == {"nats", "tokens", "correct"}
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *batches)
    mean = jax.jit(language_model(model, train=False))
    value, aux = mean(params, state, whole, None)
    total = jax.tree.map(lambda *x: sum(x), *parts)
    np.testing.assert_allclose(total["nats"] / total["tokens"], value, rtol=1e-6)
    np.testing.assert_allclose(
        total["correct"] / total["tokens"], aux.metrics["accuracy"], rtol=1e-6
    )
    assert all(x.dtype == jnp.float32 for x in total.values())


def test_domain_sums_split_the_total():
    model, params, state = started()
    batch = batch_of(HALF)
    result = jax.jit(language_model_sums(model, num_domains=3))(params, state, batch)
    sums = jax.jit(language_model_sums(model))
    for name in ("nats", "tokens", "correct"):
        assert result[f"domain_{name}"].shape == (3,)
        for domain, rows in ((0, [0]), (1, []), (2, [1, 2])):
            mask = jnp.zeros((4, 6)).at[jnp.array(rows, int)].set(1) * HALF
            alone = sums(params, state, {**batch, "mask": mask})
            np.testing.assert_allclose(
                result[f"domain_{name}"][domain], alone[name], rtol=1e-5
            )
    # Domain 7 lies outside: in the total only.
    outside = result["tokens"] - result["domain_tokens"].sum()
    assert outside == HALF[3].sum() > 0
