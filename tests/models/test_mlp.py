"""The perceptron: what it computes, and settings that cannot work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.models import build, mlp


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_agrees_with_a_plain_reference(activation, shake):
    model = mlp({"input_dim": 3, "hidden_dim": 4, "activation": activation})
    inputs = jax.random.normal(jax.random.key(1), (5, 3))
    batch = {"inputs": inputs}
    params = shake(model.init(jax.random.key(0), batch)[0])
    outputs, _, _ = model.apply(params, {}, batch, key=None, train=False)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    functions = {
        "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: np.asarray(jax.nn.gelu(jnp.asarray(x))),
        "tanh": np.tanh,
    }
    x = np.asarray(inputs, np.float64)
    for layer in ("0", "1"):
        kernel, bias = p["layers"][layer]["kernel"], p["layers"][layer]["bias"]
        x = functions[activation](x @ kernel + bias)
    x = x @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(outputs, x, rtol=1e-4, atol=1e-5)


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError) as failure:
        mlp({"num_layers": 0, "hidden_dim": True, "activation": "relu6"})
    text = str(failure.value)
    assert "model.num_layers: expected a whole number of at least 1, found 0" in text
    assert "model.hidden_dim" in text
    assert "model.activation: expected one of relu, gelu, tanh, found 'relu6'" in text


def test_an_unknown_setting():
    with pytest.raises(ConfigError, match=r"did you mean model\.hidden_dim\?"):
        build({"name": "mlp", "hiden_dim": 3})


def test_build_and_flops():
    model = build({"name": "mlp"})
    assert model.flops_per_token(128) == 6 * (64 * 64 + 64 * 64 + 64 * 10)
