"""Every transform and optimizer works inside Optax's wrappers."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import jopt
from jopt.tree import digest, map_named, named_leaves

# One float32 program in two arrangements; see test_contract.
FLOAT32 = 1e-5


def step(tx, grads, params, **extra_args):
    return tx.update(grads, tx.init(params), params, **extra_args)[0]


def choose(case):
    """The paths of about half the leaves, matrices and (in a model) others."""
    return set(sorted(named_leaves(case.params()))[::2]) | {"mlp/up"}


def test_chain_after_identity_changes_nothing(case):
    params, grads = case.params(), case.grads()
    chained = optax.chain(optax.identity(), case.tx(), optax.scale(1.0))
    assert digest(step(chained, grads, params)) == digest(
        step(case.tx(), grads, params)
    )


def test_masked_leaves_pass_and_the_rest_is_as_alone(movable_case, close):
    params, grads, chosen = (
        movable_case.params(),
        movable_case.grads(),
        choose(movable_case),
    )
    mask = map_named(lambda path, _: path in chosen, params)
    updates = step(optax.masked(movable_case.tx(), mask), grads, params)

    def only(tree):
        return map_named(lambda path, x: x if path in chosen else None, tree)

    alone = named_leaves(step(movable_case.tx(), only(grads), only(params)))
    assert set(alone) == chosen & set(named_leaves(params))
    for path, update in named_leaves(updates).items():
        close(update, alone.get(path, named_leaves(grads)[path]), FLOAT32)


def test_none_leaves_stay_none(movable_case):
    params, grads, chosen = (
        movable_case.params(),
        movable_case.grads(),
        choose(movable_case),
    )
    some = map_named(lambda path, x: x if path in chosen else None, params)
    updates = step(
        movable_case.tx(),
        map_named(lambda p, x: x if p in chosen else None, grads),
        some,
    )
    assert jax.tree.structure(updates) == jax.tree.structure(some)


def test_partition_masks_tree_shaped_extra_args(movable_case, close):
    params, grads, chosen = (
        movable_case.params(),
        movable_case.grads(),
        choose(movable_case),
    )
    seen = []

    def spy(updates, state, params=None, *, tags, **_):
        seen.append(jax.tree.map(lambda u, tag: tag, updates, tags))
        return updates, state

    spying = optax.GradientTransformationExtraArgs(optax.init_empty_state, spy)
    labels = map_named(lambda path, _: "a" if path in chosen else "b", params)
    tx = optax.partition(
        {"a": optax.chain(movable_case.tx(), spying), "b": optax.set_to_zero()},
        labels,
        mask_compatible_extra_args=True,
    )
    tags = map_named(lambda path, _: path, params)
    updates = named_leaves(step(tx, grads, params, tags=tags, value=jnp.zeros(())))
    assert set(jax.tree.leaves(seen)) == chosen & set(updates)
    mask = map_named(lambda path, _: path in chosen, params)
    masked = named_leaves(step(optax.masked(movable_case.tx(), mask), grads, params))
    for path, update in updates.items():
        close(update, masked[path] if path in chosen else 0 * update, 0.0)


def test_multi_steps_is_the_step_on_the_mean(case, close):
    params = case.params()
    grads = [case.grads(seed=seed) for seed in (1, 2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    wrapped = optax.MultiSteps(case.tx(), every_k_schedule=2)
    state = wrapped.init(params)
    first, state = wrapped.update(grads[0], state, params)
    second, state = wrapped.update(grads[1], state, params)
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(first))
    expected = case.tx().update(mean, case.tx().init(params), params)
    close((second, state.inner_opt_state), expected, FLOAT32)


def test_inject_hyperparams_gives_the_same_update(numeric_case, close):
    params, grads = numeric_case.params(), numeric_case.grads()
    tx = optax.inject_hyperparams(numeric_case.make, static_args=numeric_case.static)(
        **numeric_case.kwargs
    )
    state = tx.init(params)
    assert set(numeric_case.traced) <= set(state.hyperparams)
    updates, new_state = jax.jit(tx.update)(grads, state, params)
    close(updates, step(numeric_case.tx(), grads, params), FLOAT32)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@pytest.mark.parametrize("wrap", [jopt.skip_nonfinite, jopt.skip_spikes, jopt.monitor])
def test_wrappers_forward_extra_args(wrap):
    seen = []

    def spy(updates, state, params=None, **extra_args):
        seen.append(extra_args)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, spy)
    ones = {"w": jnp.ones(2)}
    step(wrap(inner), ones, ones, value=jnp.ones(()), unknown=3)
    assert seen == [{"value": 1.0, "unknown": 3}]


def test_rules_forward_extra_args():
    rules = {"all": {"match": ".", "name": "optax.contrib:reduce_on_plateau"}}
    whole_tree = {"clip": 1.0, "skip_nonfinite": True}
    config = {"optim": {"order": ("all",), "rules": rules, "whole_tree": whole_tree}}
    ones = {"w": jnp.ones(2)}
    tx = jopt.optimizers.build(config, ones).tx
    step(tx, ones, ones, value=jnp.ones(()))
    with pytest.raises(TypeError, match="value"):
        step(tx, ones, ones)


@pytest.mark.parametrize(
    "name", ["sign_sgd", "signum", "lion", "muon", "sign_muon", "lion_muon"]
)
def test_only_keyword_options_beyond_the_rates(name):
    kinds = [p.kind for p in inspect.signature(getattr(jopt, name)).parameters.values()]
    positional = [k for k in kinds if k is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 3
