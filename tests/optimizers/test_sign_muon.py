"""SignMuon and LionMuon against their recursion, and what they are at the ends."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.optimizers import build, schedule_from_config
from jopt.transforms import dual_ema, is_due, scale_by_orthogonalization, scale_by_shape

STEPS = 20
SHAPES = {"matrix": (6, 4), "stack": (2, 4, 5), "joint": (4, 2, 3), "heads": (4, 2, 3)}
SPECS = {
    "stack": jopt.MatrixSpec((1,), (2,)),
    "joint": jopt.MatrixSpec((0,), (1, 2)),
    "heads": jopt.MatrixSpec((0,), (2,)),
}
SETTINGS = {"method": "svd", "matrix_specs": SPECS, "weight_decay": 0.1}
RATE, SIGN_RATE = 0.02, 0.003


def tree(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


PARAMS = tree(100)
GRADS = [tree(seed) for seed in range(STEPS)]


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(tx, steps=STEPS):
    params = single(PARAMS)

    @jax.jit
    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for g in GRADS[:steps]:
        params, state = step(single(g), state, params)
    return params


def polar(name, c):
    """0.2 sqrt(d_max) U V^T of each matrix, seen as (..., M, N)."""
    views = {
        "joint": (lambda x: x.reshape(4, 6), lambda x: x.reshape(4, 2, 3)),
        "heads": (lambda x: x.swapaxes(0, 1), lambda x: x.swapaxes(0, 1)),
    }
    there, back = views.get(name, (lambda x: x, lambda x: x))
    u, _, vt = np.linalg.svd(there(c), full_matrices=False)
    return back(0.2 * math.sqrt(max(there(c).shape[-2:])) * (u @ vt))


def reference(b1, b2, period):
    """The recursion of the paper in float64, the decay by the rate of the step."""
    found = {}
    for name, w in PARAMS.items():
        m = np.zeros_like(w)
        for t, grads in enumerate(GRADS):
            c = b1 * m + (1 - b1) * grads[name]
            m = b2 * m + (1 - b2) * grads[name]
            spectral = period != math.inf and t % period == 0
            rate = RATE if spectral else SIGN_RATE
            w = w - rate * ((polar(name, c) if spectral else np.sign(c)) + 0.1 * w)
        found[name] = w
    return found


def close(found, expected, atol):
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, atol=atol, err_msg=name)


@pytest.mark.parametrize("period", [1, 2, 3, math.inf])
def test_lion_muon_for_twenty_steps(period):
    """float32 against float64: 5e-7 apart, bound 2e-6."""
    tx = jopt.lion_muon.matrices(
        RATE, sign_learning_rate=SIGN_RATE, period=period, **SETTINGS
    )
    close(run(tx), reference(0.9, 0.99, period), 2e-6)


def test_sign_muon_for_twenty_steps_is_lion_muon_with_equal_rates():
    rates = {"sign_learning_rate": SIGN_RATE}
    found = run(jopt.sign_muon.matrices(RATE, **rates, **SETTINGS))
    close(found, reference(0.95, 0.95, 2), 2e-6)
    other = jopt.lion_muon.matrices(RATE, b1=0.95, b2=0.95, **rates, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, found, run(other))


def test_at_every_step_it_is_muon_with_the_memory_of_lion():
    muon = optax.chain(
        scale_by_orthogonalization(
            momentum=dual_ema(0.9, 0.99), method="svd", matrix_specs=SPECS
        ),
        scale_by_shape("match_rms_adamw", matrix_specs=SPECS),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(RATE),
    )
    close(run(jopt.lion_muon.matrices(RATE, period=1, **SETTINGS)), run(muon), 1e-6)


def test_at_no_step_it_is_lion():
    tx = jopt.lion_muon.matrices(
        RATE, sign_learning_rate=SIGN_RATE, period=math.inf, **SETTINGS
    )
    lion = jopt.lion(SIGN_RATE, weight_decay=0.1)
    jax.tree.map(np.testing.assert_array_equal, run(tx), run(lion))


def test_only_spectral_steps_compute_a_polar_factor():
    params = {"w": jnp.ones((4, 6))}
    tx = jopt.lion_muon.matrices(RATE, steps=2)
    program = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    (choice,) = [e for e in program.eqns if e.primitive.name == "cond"]
    outside = [str(e) for e in program.eqns if e is not choice]
    assert not any("dot_general" in text for text in outside)
    branches = ["dot_general" in str(b) for b in choice.params["branches"]]
    assert branches == [False, True]


def test_periods_and_rates_may_be_traced_and_mapped():
    periods = [1, 2, math.inf]
    values = {
        "period": jnp.array(periods),
        "learning_rate": jnp.full(3, RATE),
        "sign_learning_rate": jnp.full(3, SIGN_RATE),
    }
    mapped = jax.vmap(lambda v: run(jopt.lion_muon.matrices(**v, **SETTINGS), 3))
    found = mapped(values)
    for lane, period in enumerate(periods):
        alone = jopt.lion_muon.matrices(
            RATE, sign_learning_rate=SIGN_RATE, period=period, **SETTINGS
        )
        close({k: x[lane] for k, x in found.items()}, run(alone, 3), 1e-6)


def test_steps_that_are_due():
    steps = jnp.arange(7)
    for period, expected in {
        3: [0, 3, 6],
        2.4: [0, 2, 4, 6],  # To the nearest whole number, and at least 1.
        0: list(range(7)),
        10**12: [0],
        math.inf: [],
    }.items():
        assert np.flatnonzero(is_due(steps, period)).tolist() == expected


def test_the_schedule_of_a_run_reaches_both_rates():
    """The sign rate by itself, or as a twentieth of the other."""
    train = {"steps": 8, "schedule": {"name": "cosine", "warmup": 4}}
    factor = schedule_from_config(train)
    params = {"kernel": jnp.asarray(PARAMS["matrix"], jnp.float32)}
    for rates, expected in (({"sign_learning_rate": 1.0}, 1.0), ({}, 0.05)):
        rule = {"match": ".", "name": "lion_muon", "learning_rate": 1.0} | rates
        rule |= {"method": "svd", "scale": "unit_rms", "period": 3}
        config = {"optim": {"order": ("all",), "rules": {"all": rule}}, "train": train}
        tx = build(config, params).tx
        state = tx.init(params)
        for step in range(6):
            updates, state = tx.update(params, state, params)
            size = float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2)))
            peak = 1.0 if step % 3 == 0 else expected
            assert size == pytest.approx(peak * float(factor(step)), rel=1e-5)


def begun(tx, params, count):
    """The state of `tx` before step number `count`, with no momentum yet."""
    return jax.tree.map(
        lambda x: x + count if x.dtype == jnp.int32 else x, tx.init(params)
    )


@pytest.mark.parametrize("count", [0, 1])
def test_soft_signs_and_noise_are_for_sign_steps(count):
    params = single(PARAMS)
    found = []
    for options in ({}, {"soft_sign_eps": 0.3, "dither": 1.0}):
        tx = jopt.lion_muon.matrices(RATE, **options, **SETTINGS)
        updates, _ = tx.update(single(GRADS[0]), begun(tx, params, count), params)
        found.append(updates["matrix"])
    assert np.array_equal(*found) == (count == 0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_broken_matrix_is_alone(count):
    params = single(PARAMS)
    tx = jopt.sign_muon.matrices(
        RATE, nan_policy="zero", method="svd", matrix_specs=SPECS
    )
    start = begun(tx, params, count)
    good = single(GRADS[0])
    broken = good | {"stack": good["stack"].at[1, 0, 2].set(jnp.nan)}
    expected, _ = tx.update(good, start, params)
    found, state = tx.update(broken, start, params)
    np.testing.assert_array_equal(found["stack"][0], expected["stack"][0])
    np.testing.assert_array_equal(found["stack"][1], 0.0)
    np.testing.assert_array_equal(state[0].momentum.mu["stack"][1], 0.0)


def test_routing_state_and_wrong_arguments():
    params = {"mlp": jnp.ones((4, 6)), "norm": jnp.ones(6), "head": jnp.ones((4, 3))}
    tx = jopt.lion_muon(RATE, steps=2)
    floats = [x for x in jax.tree.leaves(tx.init(params)) if x.ndim]
    assert sum(x.size for x in floats) == 4 * 6 + 2 * (6 + 4 * 3)
    with pytest.raises(jopt.ShapeError, match="norm"):
        jopt.lion_muon.matrices(RATE).init(params)
    with pytest.raises(TypeError, match="axis_name"):
        jopt.sign_muon(RATE, axis_name="data")
