"""What every transform and optimizer owes to whoever calls it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.tree import digest

# Two compiled forms of one float32 program differ by a few roundings, and five
# Newton-Schulz stages amplify them up to p'(0) = 493 times near a zero singular value.
FLOAT32 = 1e-5


def test_unknown_extra_args_are_accepted_and_change_nothing(case):
    tx, params, grads = case.tx(), case.params(), case.grads()
    plain, _ = tx.update(grads, tx.init(params), params)
    extra, _ = tx.update(grads, tx.init(params), params, value=jnp.ones(()), unknown=3)
    assert digest(plain) == digest(extra)


def test_vmap_over_hyperparameters_and_parameters_equals_a_loop(case, close):
    def step(values, params, grads):
        tx = case.tx(**values)
        return tx.update(grads, tx.init(params), params)

    # The second lane has other hyperparameters, the third other arrays as well.
    lanes = [
        (
            {name: jnp.float32(case.kwargs[name] * factor) for name in case.traced},
            jax.tree.map(lambda x, turned=turned: -x if turned else x, case.params()),
            case.grads(seed=2 if turned else 1),
        )
        for factor, turned in ((1.0, False), (0.5, False), (0.5, True))
    ]
    batched = jax.jit(jax.vmap(step))(*stacked(lanes))
    single = jax.jit(step)
    first, second, third = one_by_one = [single(*lane) for lane in lanes]
    close(batched, stacked(one_by_one), FLOAT32)
    assert (digest(first) != digest(second)) == bool(case.traced)
    assert digest(second) != digest(third)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def test_one_nan_under_skip_nonfinite_changes_no_bit(case):
    tx = jopt.skip_nonfinite(case.tx())
    update = jax.jit(tx.update)
    params, grads = case.params(), case.grads()
    updates, before = update(grads, tx.init(params), params)
    assert int(before.skipped) == 0 and any(map(jnp.any, jax.tree.leaves(updates)))
    leaves, structure = jax.tree.flatten(grads)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(jnp.nan)
    updates, after = update(jax.tree.unflatten(structure, leaves), before, params)
    assert int(after.skipped) == 1
    assert digest(after.inner_state) == digest(before.inner_state)
    assert digest(optax.apply_updates(params, updates)) == digest(params)


def test_a_new_hyperparameter_value_does_not_retrace(numeric_case):
    params, grads = numeric_case.params(), numeric_case.grads()
    traces = []

    @jax.jit
    def step(state, values):
        traces.append(values)
        return numeric_case.tx(**values).update(grads, state, params)

    state = numeric_case.tx().init(params)
    for factor in (1.0, 0.5, 0.0):
        values = {
            k: jnp.asarray(numeric_case.kwargs[k] * factor) for k in numeric_case.traced
        }
        _, state = step(state, values)
    assert len(traces) == 1


def test_dtypes_and_state_structure_are_kept(case, dtype):
    tx, params, grads = case.tx(), case.params(dtype), case.grads(dtype)
    state = tx.init(params)
    updates, new_state = tx.update(grads, state, params)
    shape = jax.tree.map(lambda x: (x.shape, x.dtype), (updates, new_state))
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), (grads, state))
    assert shape == expected
    assert all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(state))


def test_traced_learning_rate_keeps_bfloat16(rated_case):
    params, grads = rated_case.params("bfloat16"), rated_case.grads("bfloat16")
    values = {name: jnp.float32(rated_case.kwargs[name]) for name in rated_case.traced}
    tx = rated_case.tx(**values)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_state_passes_through_scan_and_cond(case, dtype):
    tx, params, grads = case.tx(), case.params(dtype), case.grads(dtype)

    @jax.jit
    def program(state):
        def step(state, active):
            return jax.lax.cond(
                active,
                lambda s: tx.update(grads, s, params)[1],
                lambda s: s,
                state,
            ), None

        return jax.lax.scan(step, state, jnp.array([True, False, True]))[0]

    start = tx.init(params)
    assert jax.tree.structure(program(start)) == jax.tree.structure(start)


def test_jit_equals_eager(case, close):
    tx, params, grads = case.tx(), case.params(), case.grads()
    state = tx.init(params)
    eager = tx.update(grads, state, params)
    close(jax.jit(tx.update)(grads, state, params), eager, FLOAT32)


def test_same_inputs_give_the_same_bits(case):
    tx, params, grads = case.tx(), case.params(), case.grads()
    state = tx.init(params)
    update = jax.jit(tx.update)
    assert digest(update(grads, state, params)) == digest(update(grads, state, params))


def test_save_restore_continue_equals_continue(case, dtype, run, tmp_path):
    tx, params = case.tx(), case.params(dtype)
    grads = [case.grads(dtype, seed) for seed in (1, 2, 3)]
    params, state = run(tx, params, grads[:2])

    leaves, structure = jax.tree.flatten((params, state))
    raw = {
        str(i): np.asarray(leaf).view(np.uint8)
        for i, leaf in enumerate(np.atleast_1d(np.asarray(leaf)) for leaf in leaves)
    }
    np.savez(tmp_path / "state.npz", **raw)
    with np.load(tmp_path / "state.npz") as stored:
        restored = [
            jnp.asarray(stored[str(i)].view(leaf.dtype).reshape(leaf.shape))
            for i, leaf in enumerate(leaves)
        ]
    later_params, later_state = jax.tree.unflatten(structure, restored)

    straight = run(tx, params, grads[2:], state)
    resumed = run(case.tx(), later_params, grads[2:], later_state)
    assert digest(straight) == digest(resumed)


def test_zero_gradients_are_finite_and_still_decay(resting_case, dtype):
    tx, params = resting_case.tx(), resting_case.params(dtype)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(grads, tx.init(params), params)
    for leaf in jax.tree.leaves((updates, state)):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    kwargs = resting_case.kwargs
    size = kwargs.get("learning_rate", kwargs.get("init_step_size", 0.0))
    rate = size * kwargs.get("weight_decay", 0.0)
    for u, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        expected = -rate * p.astype(jnp.float32)
        # Two or three roundings to the parameter's dtype.
        tolerance = 3 * float(jnp.finfo(dtype).eps) * rate * 4
        assert float(jnp.max(jnp.abs(u.astype(jnp.float32) - expected))) <= tolerance


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scale_of_the_gradient_has_no_effect(free_case, factor, run, close):
    tx, params = free_case.tx(), free_case.params()
    grads = [free_case.grads(seed=seed) for seed in (1, 2)]
    scaled = [jax.tree.map(lambda g: g * factor, tree) for tree in grads]
    expected, _ = run(tx, params, grads)
    found, _ = run(tx, params, scaled)
    close(found, expected, 1e-5)


def test_a_schedule_is_followed(schedule_case, close):
    params, grads = schedule_case.params(), schedule_case.grads()
    tx = schedule_case.tx(learning_rate=lambda step: jnp.where(step == 0, 0.01, 0.0))
    state = tx.init(params)
    first, state = tx.update(grads, state, params)
    second, _ = tx.update(grads, state, params)
    constant = schedule_case.tx(learning_rate=0.01)
    expected, _ = constant.update(grads, constant.init(params), params)
    close(first, expected, 1e-7)
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(second))
