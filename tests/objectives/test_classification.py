"""Cross-entropy of classes: the same sums as a language model's, one axis less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.models import mlp
from jopt.objectives import calibration, classification, classification_sums

KEY = jax.random.key(0)
MODEL = mlp({"hidden_dim": 8, "num_layers": 1, "input_dim": 5, "num_classes": 4})
BATCH = {
    "inputs": jax.random.normal(KEY, (6, 5)),
    "targets": jnp.array([0, 1, 2, 3, 0, 1]),
    "mask": jnp.array([1.0, 1.0, 0.0, 1.0, 0.5, 1.0]),
    "domain": jnp.array([0, 1, 0, 1, 1, 0]),
}


def start():
    params, _ = MODEL.init(KEY, BATCH)
    head = jax.random.normal(KEY, params["head"]["kernel"].shape)
    return {**params, "head": {**params["head"], "kernel": head}}


def reference(params):
    logits, _, _ = MODEL.apply(params, {}, BATCH, key=None, train=False)
    z, y = np.asarray(logits, np.float64), np.asarray(BATCH["targets"])
    nats = np.log(np.exp(z).sum(-1)) - z[np.arange(6), y]
    return nats, z.argmax(-1) == y


def test_value_is_the_masked_mean():
    params = start()
    value, aux = jax.jit(classification(MODEL))(params, {}, BATCH, KEY)
    nats, hits = reference(params)
    mask = np.asarray(BATCH["mask"])
    np.testing.assert_allclose(value, (nats * mask).sum() / mask.sum(), rtol=1e-5)
    assert aux.metrics["examples"] == 4.5
    accuracy = (hits * mask).sum() / mask.sum()
    np.testing.assert_allclose(aux.metrics["accuracy"], accuracy, rtol=1e-6)


def test_an_empty_mask_gives_zero():
    batch = {**BATCH, "mask": jnp.zeros(6)}
    objective = lambda p: classification(MODEL)(p, {}, batch, KEY)[0]  # noqa: E731
    value, grads = jax.value_and_grad(objective)(start())
    assert value == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_sums_by_domain():
    params = start()
    sums = jax.jit(classification_sums(MODEL, num_domains=2))(params, {}, BATCH)
    nats, _ = reference(params)
    mask, domain = np.asarray(BATCH["mask"]), np.asarray(BATCH["domain"])
    for e in (0, 1):
        expected = (nats * mask)[domain == e].sum()
        np.testing.assert_allclose(sums["domain_nats"][e], expected, rtol=1e-5)
        assert sums["domain_examples"][e] == mask[domain == e].sum()
    np.testing.assert_allclose(sums["nats"], (nats * mask).sum(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_losses_agree_with_a_plain_reference(loss, smoothing):
    params = start()
    options = {"loss": loss, "label_smoothing": smoothing}
    value, _ = classification(MODEL, **options)(params, {}, BATCH, KEY)
    logits, _, _ = MODEL.apply(params, {}, BATCH, key=None, train=False)
    z, y = np.asarray(logits, np.float64), np.asarray(BATCH["targets"])
    q = (1 - smoothing) * np.eye(4)[y] + smoothing / 4
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    rows = (
        -(q * log_p).sum(-1) if loss == "cross_entropy" else ((z - q) ** 2).sum(-1) / 2
    )
    mask = np.asarray(BATCH["mask"])
    np.testing.assert_allclose(value, (rows * mask).sum() / mask.sum(), rtol=1e-5)
    sums = classification_sums(MODEL, **options)(params, {}, BATCH)
    np.testing.assert_allclose(sums["loss"], (rows * mask).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["nats"], (reference(params)[0] * mask).sum(), 1e-5)


def test_unknown_losses():
    with pytest.raises(ConfigError, match=r"objective\.loss.*did you mean 'squared'"):
        classification(MODEL, loss="sqared")
    with pytest.raises(ConfigError, match="label_smoothing: expected a share"):
        classification(MODEL, label_smoothing=1.0)


def test_calibration_comes_from_sums():
    """Of all batches, or of one domain, the figures are those of the union."""
    params = start()
    sums = jax.jit(classification_sums(MODEL, num_domains=2))(params, {}, BATCH)
    logits, _, _ = MODEL.apply(params, {}, BATCH, key=None, train=False)
    p, labels = jax.nn.softmax(logits), BATCH["targets"]
    host = {name: np.asarray(x, np.float64) for name, x in sums.items()}
    of_domain = {
        name.removeprefix("domain_"): x[1]
        for name, x in host.items()
        if name.startswith("domain_")
    }
    masks = {1: BATCH["mask"] * (BATCH["domain"] == 1), None: BATCH["mask"]}
    for domain, mask in masks.items():
        found = calibration.calibration_of(of_domain if domain else host)
        expected = {
            "nll": calibration.nll(logits, labels, mask=mask),
            "brier": calibration.brier(p, labels, mask=mask),
            "ece": calibration.ece(p, labels, mask=mask),
            "ece_10": calibration.ece(p, labels, num_bins=10, mask=mask),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
