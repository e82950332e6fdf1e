"""What `monitor` measures, when, and that it changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt import MatrixSpec
from jopt.errors import ConfigError, ShapeError
from jopt.training._step import state_metrics
from jopt.transforms import FIGURES, layer_metrics, unmonitored
from jopt.transforms._monitor import stable_rank
from jopt.tree import digest, named_leaves

SPECS = {
    "block/qkv": MatrixSpec((0,), (1,), split=(6, 3, 3), heads=(2, 1, 1)),
    "block/stack": MatrixSpec((1,), (2,)),
    "block/heads": MatrixSpec((0,), (1, 2)),
}
SHAPES = {
    "block": {"qkv": (6, 12), "stack": (3, 4, 5), "heads": (8, 2, 3), "bias": (5,)},
    "conv_kernel": (2, 2, 3, 4),
    "free": (2, 3, 4),  # three axes and no view
    "head": (9, 4),
}


def tree(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def views(path, update):
    """The matrices of a leaf, spelled out."""
    if path == "block/qkv":
        cuts = ((0, 3), (3, 6), (6, 9), (9, 12))
        return [update[:, a:b] for a, b in cuts]
    if path == "block/stack":
        return list(update)
    return [
        update.reshape(
            {"block/heads": (8, 6), "conv_kernel": (12, 4)}.get(path, (9, 4))
        )
    ]


def expected(grads, updates, params):
    found = {}
    for path, grad in named_leaves(grads).items():
        update, weight = (named_leaves(t)[path] for t in (updates, params))
        g, u, w = (float(np.linalg.norm(np.ravel(x))) for x in (grad, update, weight))
        figures = [g, u, w, u / w]
        if path not in ("block/bias", "free"):
            ranks = [
                np.sum(np.square(x)) / np.linalg.norm(x, 2) ** 2
                for x in views(path, np.asarray(update))
            ]
            figures.append(np.mean(ranks))
        names = [f"layer/{path}/{figure}" for figure in FIGURES]
        found |= dict(zip(names, figures, strict=False))
    return found


def test_figures_are_those_of_numpy_and_nothing_else_changes():
    inner = optax.chain(jopt.clip_by_global_norm(1.0), optax.adam(0.1))
    tx = jopt.monitor(inner, 2, matrix_specs=SPECS)
    params, state, plain = tree(0), tx.init(tree(0)), inner.init(tree(0))
    update = jax.jit(tx.update)
    assert layer_metrics(state.metrics, params) == {}
    for step in (1, 2, 3, 4):
        grads = tree(step)
        updates, state = update(grads, state, params)
        wanted, plain = jax.jit(inner.update)(grads, plain, params)
        assert digest((updates, unmonitored(state))) == digest((wanted, plain))
        found = layer_metrics(state.metrics, params)
        if step % 2:
            assert found == {}
            continue
        truth = expected(grads, updates, params)
        assert found.keys() == truth.keys()
        for name, value in truth.items():
            loose = 0.1 if name.endswith("stable_rank") else 1e-5
            np.testing.assert_allclose(found[name], value, rtol=loose, err_msg=name)
    assert update._cache_size() == 1


def test_a_step_that_does_not_measure_leaves_the_work_to_a_branch():
    tx = jopt.monitor(optax.sgd(0.1), matrix_specs=SPECS)
    jaxpr = jax.make_jaxpr(tx.update)(tree(1), tx.init(tree(0)), tree(0)).jaxpr
    outside = {eqn.primitive.name for eqn in jaxpr.eqns}
    assert "cond" in outside
    assert not outside & {"while", "scan", "dot_general", "reduce_sum", "reduce_max"}


@pytest.mark.parametrize("shape", [(64, 64), (64, 192), (192, 64), (20, 300)])
def test_stable_rank_is_high_by_at_most_15_percent(shape):
    random = np.random.default_rng(0)
    gauss = random.normal(size=(4, *shape))
    rank = min(shape)
    slow = np.linalg.svd(gauss)[0][..., :rank] * np.arange(1, rank + 1) ** -0.25
    power_law = slow @ np.linalg.svd(gauss, full_matrices=False)[2]
    for x_SMN in (gauss, power_law):
        largest = np.linalg.norm(x_SMN, 2, axis=(1, 2))
        truth = np.sum(x_SMN**2, axis=(1, 2)) / largest**2
        ratio = stable_rank(jnp.asarray(x_SMN, jnp.float32)) / truth
        assert np.all((ratio > 1 - 1e-5) & (ratio < 1.15)), ratio


def test_stable_rank_of_matrices_that_tell_it():
    x_SMN = np.zeros((6, 3, 4), np.float32)
    x_SMN[0, :, :3] = np.eye(3)
    x_SMN[1] = 1e30 * np.outer([1, 2, 3], [1, 1, 1, -1])
    x_SMN[2, 1, 1] = 1e-30
    x_SMN[4, :2, :2] = np.nan
    x_SMN[5, 0, 0], x_SMN[5, 1, 1] = 1e-20, 1e-20
    found = stable_rank(jnp.asarray(x_SMN))
    np.testing.assert_allclose(found, [3, 1, 1, 0, np.nan, 2], rtol=1e-5)


def test_where_nothing_is_nothing_becomes_infinite():
    tx = jopt.monitor(optax.identity(), 1)
    zero, one = {"w": jnp.zeros((2, 2))}, {"w": jnp.ones((2, 2))}
    for grads, params, ratio in ((one, zero, 0), (zero, one, 0), (one, one, 1)):
        _, state = jax.jit(tx.update)(grads, tx.init(params), params)
        found = layer_metrics(state.metrics, params)
        assert found["layer/w/update_to_weight"] == ratio
        assert np.all(np.isfinite(list(found.values())))


def test_a_leaf_without_a_gradient_is_left_out():
    tx = jopt.monitor(optax.identity(), 1)
    params = {"a": jnp.eye(2), "b": jnp.eye(2)}
    _, state = tx.update({"a": None, "b": jnp.eye(2)}, tx.init(params), params)
    names = layer_metrics(state.metrics, params)
    assert {name.rsplit("/", 1)[0] for name in names} == {"layer/b"}


def test_lanes_of_vmap_and_a_traced_interval():
    params, grads = tree(0), tree(1)

    def run(rate, every_steps):
        tx = jopt.monitor(optax.sgd(rate), every_steps, matrix_specs=SPECS)
        _, state = tx.update(grads, tx.init(params), params)
        return tx.update(grads, state, params)[1].metrics

    lanes = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.1, 0.3]), jnp.array([3, 2, 1]))
    first, second, third = (
        layer_metrics({"layers": lanes["layers"][i]}, params) for i in range(3)
    )
    assert first == {}
    for name, value in second.items():
        scale = 3 if "update" in name else 1
        np.testing.assert_allclose(third[name], scale * value, rtol=1e-5, err_msg=name)


def test_a_bad_gradient_is_seen_in_its_layer_while_the_step_is_skipped():
    tx = jopt.monitor(jopt.skip_nonfinite(optax.adam(0.1)), 1, matrix_specs=SPECS)
    params, state = tree(0), tx.init(tree(0))
    grads = tree(1) | {"head": jnp.full((9, 4), jnp.nan)}
    _, after = jax.jit(tx.update)(grads, state, params)
    found = layer_metrics(after.metrics, params)
    assert [name for name, value in found.items() if np.isnan(value)] == [
        "layer/head/grad_norm"
    ]
    assert not any(found[name] for name in found if "update" in name)
    inner = unmonitored(after)
    assert digest(inner.inner_state) == digest(unmonitored(state).inner_state)
    assert int(inner.skipped) == 1


def test_names_of_what_is_wrapped_stay_the_same():
    inner, params = jopt.skip_nonfinite(optax.sgd(0.1)), tree(0)
    plain = state_metrics(inner.init(params), params)
    watched = jopt.monitor(inner, matrix_specs=SPECS)
    both = state_metrics(watched.init(params), params)
    assert both["layers"].shape == (len(named_leaves(params)), len(FIGURES))
    assert both.keys() - {"layers"} == plain.keys()
    assert plain.keys() == {"optim/skipped", "optim/skipped_in_a_row"}
    ones = {"w": jnp.ones(2)}
    nested = state_metrics(optax.chain(jopt.monitor(inner)).init(ones), ones)
    assert nested.keys() == {"optim/0/skipped", "optim/0/skipped_in_a_row"}


def test_bad_arguments():
    with pytest.raises(ConfigError, match="every 0 steps"):
        jopt.monitor(optax.sgd(0.1), 0)
    tx = jopt.monitor(optax.sgd(0.1))
    with pytest.raises(ConfigError, match=r"tx.update\(grads, state, params\)"):
        tx.update(tree(1), tx.init(tree(0)))
    wrong = {"head": MatrixSpec((0,), (1,), split=(3, 3))}
    with pytest.raises(ShapeError, match=r"head float32\[9, 4\]: MatrixSpec.split"):
        jopt.monitor(optax.sgd(0.1), matrix_specs=wrong).init(tree(0))
