"""Signal and noise of a whole gradient, each layer in the norm of its rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.optimizers import build
from jopt.training._noise import choose_gauge
from jopt.training.presets import rule

SHAPES = {
    "mlp/up": (3, 6, 8),
    "mlp/down": (8, 6),
    "attn/q": (6, 2, 4),
    "head": (6, 5),
    "bias": (7,),
}
SPECS = {
    "mlp/up": MatrixSpec((1,), (2,)),
    "mlp/down": MatrixSpec((0,), (1,)),
    "attn/q": MatrixSpec((0,), (1, 2)),
    "head": MatrixSpec((0,), (1,)),
    "bias": None,
}


def table(**rules):
    params = {path: jnp.zeros(shape) for path, shape in SHAPES.items()}
    config = {"optim": {"order": tuple(rules), "rules": rules}}
    return build(config, params, matrix_specs=SPECS).table


def mixed():
    return table(
        matrix=rule("mlp|attn/q", "muon", 0.1),
        head=rule("head", "signum", 0.1),
        rest=rule(".*", "adamw", 0.1),
    )


def draw(seed):
    rng = np.random.default_rng(seed)
    return {p: rng.normal(size=s).astype(np.float32) for p, s in SHAPES.items()}


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum()


def test_each_parameter_is_measured_in_the_geometry_of_its_rule():
    gauge = choose_gauge(mixed())
    assert gauge.main == "spectral"
    trees = draw(0), draw(1)
    found = jax.jit(lambda *trees: gauge(*trees))(*trees)
    for place, tree in enumerate(trees):
        expected = {
            "spectral": sum(map(nuclear, tree["mlp/up"]))
            + nuclear(tree["mlp/down"])
            + nuclear(tree["attn/q"].reshape(6, 8)),
            "sign": np.abs(tree["head"]).sum(),
            "euclidean": np.linalg.norm(tree["bias"]),
        }
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][place], value, rtol=1e-3)
            assert found[name][place].dtype == jnp.float32


def test_heads_that_a_rule_sees_apart_are_measured_apart():
    heads = table(
        q=rule("attn/q", "muon", 0.1, per_head=True), rest=rule(".*", "adamw", 0.1)
    )
    tree = draw(2)
    gauge = choose_gauge(heads)
    signal, _ = jax.jit(lambda tree: gauge(tree, tree))(tree)["spectral"]
    expected = nuclear(tree["attn/q"][:, 0]) + nuclear(tree["attn/q"][:, 1])
    np.testing.assert_allclose(signal, expected, rtol=1e-3)


@pytest.mark.parametrize("geometry", ["euclidean", "sign"])
def test_the_parameters_that_decide_may_be_measured_in_another(geometry):
    gauge = choose_gauge(mixed(), geometry)
    tree = draw(0)
    found, _ = gauge(tree, tree)[gauge.main]
    assert gauge.main == geometry and "spectral" not in gauge.paths
    own = {"euclidean": "bias", "sign": "head"}[geometry]
    parts = [tree[path].ravel() for path in ("mlp/up", "mlp/down", "attn/q", own)]
    order = {"euclidean": 2, "sign": 1}[geometry]
    expected = np.linalg.norm(np.concatenate(parts), order)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_spectral_needs_matrix_views():
    with pytest.raises(ConfigError, match=r"decide by bias \(7,\), which has no matri"):
        choose_gauge(table(all=rule(".*", "adamw", 0.1)), "spectral")


def test_gradients_of_several_dtypes():
    tree = draw(3)
    low = tree | {"mlp/down": jnp.asarray(tree["mlp/down"], jnp.bfloat16)}
    gauge = choose_gauge(mixed())
    signal, noise = jax.jit(lambda *trees: gauge(*trees))(low, tree)["spectral"]
    np.testing.assert_allclose(signal, noise, rtol=1e-2)
    assert float(signal) != float(noise)
