"""Activation Grams of a step are those of the whole window's activations."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jopt import objectives
from jopt.matrix import MatrixSpec
from jopt.models import linen_model, mlp, transformer_lm
from jopt.training._config import default_config
from jopt.training._grams import choose_grams
from jopt.training._oracles import value_and_grad
from jopt.training._plan import make_plan, resolve
from jopt.training._step import grams_due
from jopt.transforms import layer_metrics

WORKER = Path(__file__).with_name("grams_worker.py")
ROWS, TOKENS, IDS = 8, 6, 11
SMALL = {"vocab_size": IDS, "num_layers": 2, "embed_dim": 8, "num_heads": 2}


class Pair(linen.Module):
    """Two weights that read one activation, and one that reads another."""

    @linen.compact
    def __call__(self, x):
        self.sow("intermediates", "input", x)
        h = jnp.tanh(linen.Dense(6, name="a")(x)) * linen.Dense(6, name="b")(x)
        self.sow("intermediates", "hidden", h)
        return linen.Dense(IDS, name="c")(h)


def linen_pair(batch):
    return linen_model(
        Pair(),
        batch,
        call=lambda module, batch, train: module(batch["inputs"]),
        matrix_specs={f"{name}/kernel": MatrixSpec((0,), (1,)) for name in "abc"},
        taps={"a/kernel": "input", "b/kernel": "input", "c/kernel": "hidden"},
    )


def text_batch():
    ids = jax.random.randint(jax.random.key(1), (ROWS, TOKENS), 0, IDS)
    mask = jax.random.bernoulli(jax.random.key(2), 0.7, ids.shape)
    return {"inputs": ids, "targets": ids, "mask": mask.astype(jnp.float32)}


def row_batch(features):
    inputs = jax.random.normal(jax.random.key(1), (ROWS, features))
    return {
        "inputs": inputs,
        "targets": jnp.arange(ROWS) % 10,
        "mask": jnp.ones(ROWS),
    }


@functools.cache
def sample(kind):
    """A model, its batch and objective, and its weights that have a Gram."""
    if kind in ("nnx", "scan", "fused"):
        own = {"nnx": {}, "scan": {"scan": True}, "fused": {"fused_qkv": True}}[kind]
        model, batch = transformer_lm({**SMALL, **own}), text_batch()
        return model, batch, objectives.language_model
    if kind == "mlp":
        return mlp({"hidden_dim": 12}), row_batch(64), objectives.classification
    return linen_pair(row_batch(5)), row_batch(5), objectives.classification


@functools.cache
def expected(kind):
    """Grams by weight, in float64, from the taps of the whole batch."""
    model, batch, _ = sample(kind)
    params, state = model.init(jax.random.key(0), batch)
    _, _, taps = model.apply(
        params, state, batch, key=None, train=False, taps=tuple(model.taps.values())
    )
    flat = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    found = {}
    for path, tap in model.taps.items():
        layers, fan_in, _ = model.matrix_specs[path].dims(flat[path].shape)
        stacked = model.matrix_specs[path].axes(flat[path].ndim)[0] != ()
        x = np.asarray(taps[tap])
        if np.issubdtype(x.dtype, np.integer):
            rows = np.eye(fan_in)[x.reshape(-1)][None]
        else:
            rows = x.astype(np.float64).reshape(layers, -1, fan_in)
        grams = np.einsum("lam,lan->lmn", rows, rows) / rows.shape[1]
        found[path] = grams if stacked else grams[0]
    return found


@functools.cache
def step(kind, accumulation, half_difference=False, token_grams=True):
    """The Grams of a step as a compiled function of whether they are due."""
    model, batch, objective = sample(kind)
    grams = choose_grams(model, batch, model.taps, token_grams=token_grams)
    oracle = value_and_grad(
        objective(model, taps=grams.taps),
        accumulation=accumulation,
        half_difference=half_difference,
        grams=grams,
    )
    params, state = model.init(jax.random.key(0), batch)

    @jax.jit
    def run(due):
        found, _ = oracle.apply({}, params, state, batch, jax.random.key(0), due)
        assert found.aux.taps == {}, "activations left the step"
        return found.activation_grams, found.grads

    return run


QUICK = (("nnx", 4), ("scan", 1), ("linen", 2))
CASES = [
    pytest.param(kind, count, marks=() if (kind, count) in QUICK else pytest.mark.slow)
    for kind in ("nnx", "scan", "linen", "mlp", "fused")
    for count in (1, 2, 4)
]


@pytest.mark.parametrize(("kind", "accumulation"), CASES)
def test_grams_are_those_of_the_whole_window(kind, accumulation):
    found, _ = step(kind, accumulation)(True)
    assert found.keys() == expected(kind).keys()
    for path, gram in expected(kind).items():
        assert found[path].dtype == jnp.float32
        scale = np.abs(gram).max()
        np.testing.assert_allclose(found[path] / scale, gram / scale, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_grams_that_are_not_due_are_unknown_and_change_nothing(accumulation):
    run = step("linen", accumulation)
    (due, grads), (not_due, same) = run(True), run(False)
    assert all(jnp.isnan(gram).all() for gram in not_due.values())
    assert all(jnp.isfinite(gram).all() for gram in due.values())
    jax.tree.map(np.testing.assert_array_equal, grads, same)
    assert run._cache_size() == 1, "a step that measures is another program"


def test_halved_batch_has_the_grams_of_the_whole():
    found, _ = step("linen", 1, half_difference=True)(True)
    for path, gram in expected("linen").items():
        np.testing.assert_allclose(found[path], gram, atol=1e-5)


def test_weights_that_read_one_activation_share_its_gram():
    model, batch, _ = sample("nnx")
    grams = choose_grams(model, batch, model.taps)
    # Of each block: q, k and v; o; up and gate or up; down. The head besides.
    assert len(grams.sources) == len(grams.taps) == 2 * 4 + 1
    found = grams.by_weight(grams.zeros())
    assert found["blocks/0/attn/q/kernel"] is found["blocks/0/attn/k/kernel"]
    assert "embed/embedding" not in found, "ids have no Gram unless asked for"
    asked = choose_grams(model, batch, model.taps, token_grams=True)
    assert asked.weights.keys() - grams.weights.keys() == {"embed/embedding"}
    # 2 N M^2 for every activation: 8 wide, the hidden one 32 wide.
    narrow, wide = 2 * 3 + 1, 2
    assert grams.flops(positions=5) == 2 * 5 * (narrow * 8**2 + wide * 32**2)


def plan_of(rule):
    """A plan whose first rule has the first weight of a perceptron."""
    config = default_config()
    config.model = {"name": "mlp", "hidden_dim": 16}
    config.objective.name = "classification"
    config.data.name = "digits"
    config.monitor.every_steps = 0
    config.train.batch_size = ROWS
    config.optim.order = ("read", "rest")
    config.optim.rules.read = {
        "match": "^layers/0/kernel",
        "learning_rate": 0.1,
        **rule,
    }
    config.optim.rules.rest = {"match": ".*", "name": "sgd", "learning_rate": 0.1}
    return make_plan(resolve(config))


def digits():
    return {**row_batch(64), "domain": jnp.zeros(ROWS, jnp.int32)}


def test_the_geometry_switch_measures_with_grams_and_reports_layers():
    plan = plan_of({"name": "spec_sign", "every": 2, "min_dwell": 0, "method": "svd"})
    state = plan.init()
    due, found = [], []
    for _ in range(3):
        due.append(bool(grams_due(state.opt_state)))
        state, metrics = plan.step(state, plan.put(digits()))
        found.append(layer_metrics(jax.device_get(metrics), state.params))
    assert due == [True, False, True]
    path = "layer/layers/0/kernel"
    for layers in found:
        assert {name.rsplit("/", 1)[0] for name in layers} == {path}
        assert layers[f"{path}/has_gram"] == 1
        assert layers[f"{path}/spectral_share"] in (0, 1)
        assert np.isfinite(list(layers.values())).all()
    # What was measured stands until the next measurement.
    index = [layers[f"{path}/spec_sign_index"] for layers in found]
    assert index[0] == index[1] != index[2]


def test_a_rule_gets_grams_of_its_own_weights_when_it_reads_them(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    plan = plan_of({"name": "gram_reader:READER", "every": 3})
    reading = {r.path for r in plan.optimizer.table if "activation_grams" in r.needs}
    batch = digits()
    state = plan.init()
    traces = []
    for _ in range(6):
        state, metrics = plan.step(state, plan.put(batch))
        found = {k: float(x) for k, x in metrics.items() if k.endswith("/trace")}
        traces.append(*found.values())
    # The first weight reads the inputs themselves; the others are not measured.
    assert len(reading) == 1
    trace = float((batch["inputs"] ** 2).sum(1).mean())
    np.testing.assert_allclose(traces, [trace, np.nan, np.nan] * 2, rtol=1e-5)
    assert plan.step._cache_size() == 1


@pytest.mark.devices
def test_two_devices_find_the_same(on_devices):
    """Also the half difference without accumulation, which halves the batch."""
    worst = json.loads(on_devices(2, WORKER))
    assert worst.keys() == {"1x1", "2x1", "2x4"}
    for case, gaps in worst.items():
        assert max(gaps.values()) < 1e-5, (case, gaps)
