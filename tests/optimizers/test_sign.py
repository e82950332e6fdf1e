"""signSGD, Signum and Lion against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.optimizers import build
from jopt.transforms import MomentumState

STEPS = 20
SHAPES = {"matrix": (6, 4), "stack": (2, 4, 3), "heads": (4, 2, 3), "vector": (5,)}
SPECS = {
    "stack": jopt.MatrixSpec((1,), (2,)),
    "heads": jopt.MatrixSpec((0,), (2,)),
    "vector": None,
}
RATE, DECAY = 0.01, 0.1


def tree(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


PARAMS = tree(100)
GRADS = [tree(seed) for seed in range(STEPS)]


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(tx, params=PARAMS, grads=GRADS):
    params = single(params)
    state = tx.init(params)

    @jax.jit
    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    for g in grads:
        params, state = step(single(g), state, params)
    return params, state


def reference(b1, b2, *, nesterov=False, eps=0.0, factor=1.0):
    """Lion's recursion in float64; b1 = None is Signum's, b2 = None signSGD's."""
    found = {}
    for name, start in PARAMS.items():
        w, m = start, np.zeros_like(start)
        for grads in GRADS:
            g = grads[name]
            if b2 is None:
                c = g
            elif b1 is None:
                m = b2 * m + (1 - b2) * g
                c = b2 * m + (1 - b2) * g if nesterov else m
            else:
                c = b1 * m + (1 - b1) * g
                m = b2 * m + (1 - b2) * g
            u = c / (np.abs(c) + eps) if eps else np.sign(c)
            w = w - RATE * (factor * u + DECAY * w)
        found[name] = w
    return found


def close(found, expected, atol=2e-6):
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (jopt.sign_sgd, {}, (None, None, {})),
        (jopt.signum, {}, (None, 0.9, {})),
        (jopt.signum, {"b1": 0.8, "nesterov": True}, (None, 0.8, {"nesterov": True})),
        (jopt.lion, {}, (0.9, 0.99, {})),
        (jopt.lion, {"soft_sign_eps": 0.3}, (0.9, 0.99, {"eps": 0.3})),
    ],
)
def test_twenty_steps(make, options, expected):
    """float32 against float64: 7e-7 apart, bound 2e-6."""
    b1, b2, more = expected
    found, _ = run(make(RATE, weight_decay=DECAY, **options))
    close(found, reference(b1, b2, **more))


def test_signs_over_fan_in():
    """Each matrix by its own fan-in, 6 for the matrix and 4 for stack and heads."""
    matrices = {name: x for name, x in PARAMS.items() if name != "vector"}
    specs = {name: spec for name, spec in SPECS.items() if name != "vector"}
    tx = jopt.signum(
        RATE, weight_decay=DECAY, scale="inverse_fan_in", matrix_specs=specs
    )
    found, _ = run(tx, matrices, [{k: g[k] for k in matrices} for g in GRADS])
    for name, fan_in in {"matrix": 6, "stack": 4, "heads": 4}.items():
        expected = reference(None, 0.9, factor=1 / fan_in)
        np.testing.assert_allclose(found[name], expected[name], atol=2e-6)


def test_only_a_scale_needs_matrices():
    jopt.signum(RATE, matrix_specs=SPECS).init(single(PARAMS))
    with pytest.raises(jopt.ShapeError, match="vector"):
        jopt.signum(RATE, matrix_specs=SPECS, scale="jordan").init(single(PARAMS))
    with pytest.raises(jopt.ConfigError, match="inverse_fan_in"):
        jopt.signum(RATE, scale="inverse_fan")


def test_a_rule_gives_an_output_layer_signs_over_fan_in():
    rule = {"match": "head", "name": "sign_sgd", "learning_rate": 1.0}
    rules = {"head": rule | {"scale": "inverse_fan_in"}}
    config = {"optim": {"order": ("head",), "rules": rules}}
    params = {"head": jnp.ones((8, 3))}
    tx = build(config, params).tx
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["head"], -1 / 8)


def test_lion_agrees_with_optax_and_starts_with_the_sign_of_the_gradient():
    other = optax.lion(RATE, b1=0.9, b2=0.99, weight_decay=DECAY)
    close(run(jopt.lion(RATE, weight_decay=DECAY))[0], run(other)[0])
    tx, params, grads = jopt.lion(1.0), single(PARAMS), single(GRADS[0])
    first, _ = tx.update(grads, tx.init(params), params)
    for name, g in grads.items():
        np.testing.assert_array_equal(first[name], -np.sign(g))


def test_lion_with_equal_rates_is_signum():
    # With b1 = b2, Lion's C is the new memory itself: Signum without Nesterov.
    found, expected = run(jopt.lion(RATE, 0.9, 0.9))[0], run(jopt.signum(RATE, 0.9))[0]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_states_hold_a_counter_only_where_there_is_noise():
    w = jnp.ones(3)
    plain = optax.chain(jopt.signum(0.1)).init(w)
    assert isinstance(plain[0][0], MomentumState)
    assert not jax.tree.leaves(jopt.sign_sgd(0.1).init(w))
    noisy = jax.tree.leaves(jopt.sign_sgd(0.1, dither=1.0).init(w))
    assert [x.dtype for x in noisy] == [jnp.int32]


@pytest.mark.parametrize("make", [jopt.sign_sgd, jopt.signum, jopt.lion])
def test_entries_that_are_not_finite(make):
    """`propagate` shows NaN in its entry; `zero` passes it over, momentum and all."""
    w = jnp.zeros(4)
    good = jnp.array([1.0, -2.0, 3.0, 4.0])
    bad = jnp.array([1.0, jnp.nan, 3.0, jnp.inf])
    for policy, expected in {
        "propagate": [-1.0, np.nan, -1.0, -1.0],
        "zero": [-1.0, 0.0, -1.0, 0.0],
    }.items():
        tx = make(1.0, nan_policy=policy)
        _, before = tx.update(good, tx.init(w), w)
        update, after = tx.update(bad, before, w)
        np.testing.assert_array_equal(update, expected)
        for new, old in zip(*map(jax.tree.leaves, (after, before)), strict=True):
            if policy == "zero":
                np.testing.assert_array_equal(new[1::2], old[1::2])


def test_bfloat16_signs_are_those_of_the_float32_average():
    # 0.9 * 1.0078125 - 0.1 * 9.0625 is 8e-4, and 0 if products are bfloat16.
    w = jnp.zeros(1, jnp.bfloat16)
    tx = jopt.lion(1.0, 0.9, 0.0)
    _, state = tx.update(jnp.full(1, 1.0078125, jnp.bfloat16), tx.init(w), w)
    update, _ = tx.update(jnp.full(1, -9.0625, jnp.bfloat16), state, w)
    assert update.dtype == jnp.bfloat16
    assert update.tolist() == [-1.0]
