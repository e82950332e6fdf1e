"""Local updates: the properties of the specification, on one device and on four."""

from __future__ import annotations

import functools
import json
import re
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError, JoptWarning, ShapeError
from jopt.transforms import (
    Evaluated,
    PseudoSync,
    ReplicaGradient,
    int4,
    local_updates,
)
from jopt.transforms.replicas._pseudo_sync import coin

R = 4
SLOW = pytest.mark.slow
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)
ADAM = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))
KEY = jax.random.key(0)


def quadratic(params, batch):
    """Half the squared distance from the mean of a batch, of every leaf."""
    leaves = jax.tree.leaves(params)
    return sum(jnp.mean((leaf - jnp.mean(batch)) ** 2) for leaf in leaves) / 2


def regression(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def model(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 4), "v": (4, 2)}
    return {k: jnp.asarray(rng.normal(size=s) / 2, dtype) for k, s in shapes.items()}


def data(steps, replicas=R, same=False):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(steps, 1 if same else replicas, 6, 5)).astype(np.float32)
    x = np.broadcast_to(x, (steps, replicas, 6, 5))
    return x, np.sin(x[..., :2])


@partial(jax.jit, static_argnums=(0, 1))
def _follow(local, loss, params, state, batches):
    def one(carry, batch):
        params, state, metrics = local.step(loss, *carry, batch)
        kept = {name: metrics[name] for name in ("loss", "pseudo_sync")}
        return (params, state), (params, state.anchor, kept)

    return jax.lax.scan(one, (params, state), batches)


def follow(local, batches, params=None, loss=regression, start=None):
    """All steps in one program: ((parameters, state), what each step left)."""
    begin = local.init(model() if params is None else params)
    return _follow(local, loss, *(begin if start is None else start), batches)


def gap(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def of_replica(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


def same_bits(a, b):
    return jopt.tree.digest(a) == jopt.tree.digest(b)


@functools.cache
def _one_worker(tx):
    @jax.jit
    def one(params, state, batch):
        grads = jax.grad(regression)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return one


def alone(tx, batches, steps):
    """One worker on batches (steps, ...)."""
    params = model()
    state = tx.init(params)
    for t in range(steps):
        params, state = _one_worker(tx)(params, state, of_replica(batches, t))
    return params


def test_every_step_averaged_is_data_parallel():
    batches = data(20)
    tx = optax.sgd(0.1)
    local = jopt.local_sgd(tx, num_replicas=R, period=1)
    (params, state), _ = follow(local, batches)
    together = jax.tree.map(lambda x: x.reshape(20, -1, x.shape[-1]), batches)
    want = alone(tx, together, 20)
    assert gap(state.anchor, want) < 1e-6
    assert same_bits(params, jax.tree.map(lambda x: jnp.stack([x] * R), state.anchor))


@pytest.mark.parametrize("period", [pytest.param(1, marks=SLOW), 3])
def test_identical_data_is_one_worker(period):
    batches = data(6, same=True)
    tx = optax.adamw(0.01)
    (_, state), _ = follow(jopt.local_sgd(tx, num_replicas=R, period=period), batches)
    want = alone(tx, jax.tree.map(lambda x: x[:, 0], batches), 6)
    assert gap(state.anchor, want) < 1e-6


def test_the_mean_of_one_replica_is_itself_to_the_bit():
    local = jopt.local_sgd(optax.sgd(0.1), num_replicas=1, period=1, mode="vmap")
    params, state = local.init(model())
    moved = jax.tree.map(lambda w: (w * 1.2345 + 1e-3).at[:, 0].set(0), params)
    after, end = jax.jit(local.sync)(moved, state)
    assert same_bits((after, end.anchor), (moved, of_replica(moved, 0)))
    assert float(end.metrics["outer_gradient_norm"]) > 0.1


def palsgd(p, kappa, **options):
    made = {"num_replicas": R, "period": 4, "key": KEY, "mode": "vmap", **options}
    return jopt.palsgd(ADAM, 0.05, probability=p, strength=kappa, **made)


def test_palsgd_without_coins_is_diloco_to_the_bit():
    batches = data(9)
    same = jopt.diloco(ADAM, num_replicas=R, period=4, learning_rate=0.05, mode="vmap")
    (want, want_state), _ = follow(same, batches)
    (found, state), _ = follow(palsgd(0.0, 0.5, key=None), batches)
    assert same_bits((found, state), (want, want_state))


def test_palsgd_without_strength_only_skips_steps():
    """Against a loop: the coin decides, the rate is gamma / (1 - p), no pull."""
    p, steps = 0.4, 8
    batches = data(steps)
    local = palsgd(p, 0.0, period=100)
    (params, state), (_, _, metrics) = follow(local, batches)
    skipped = np.asarray(metrics["pseudo_sync"])
    assert 5 < skipped.sum() < 25
    assert np.isnan(np.asarray(metrics["loss"])).sum() == skipped.sum()
    tx = optax.chain(ADAM, optax.scale(-0.05 / (1 - p)))
    for r in range(R):
        taken = np.flatnonzero(skipped[:, r] == 0)
        want = alone(tx, tuple(x[taken, r] for x in batches), len(taken))
        assert gap(of_replica(params, r), want) < 1e-6
        # The count of the inner optimizer stands still with it; the global one goes on.
        assert int(state.inner_state[0].count[r]) == len(taken)
    assert int(state.count) == steps


def test_a_pull_shortens_the_way_to_the_anchor_and_changes_nothing_else():
    """A coin that always shows a pull: (1 - gamma kappa / p) each time, all leaves."""
    p, kappa, rate = 0.999999, 0.5, 0.2
    made = {"num_replicas": R, "period": 100, "key": KEY, "mode": "vmap"}
    local = jopt.palsgd(ADAM, rate, probability=p, strength=kappa, **made)
    params, state = local.init(model())
    apart = jax.tree.map(lambda w: w + jnp.arange(1.0, R + 1).reshape(R, 1, 1), params)
    (after, end), (_, _, metrics) = follow(local, data(3), start=(apart, state))
    assert np.asarray(metrics["pseudo_sync"]).all()
    factor = (1 - rate * kappa / p) ** 3

    def ratio(new, old, anchor):
        return (new - anchor) / (old - anchor)

    found = jax.tree.map(ratio, after, apart, state.anchor)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_allclose(leaf, factor, rtol=1e-6)
    assert same_bits(end.inner_state, state.inner_state)
    for pull_mask in ({"w": True, "v": False}, lambda path: path == "w"):
        rule = PseudoSync(p, kappa, pull_mask)
        moved = rule.pull(apart, state.anchor, 0.5)
        assert same_bits(moved["v"], apart["v"])
        assert gap(moved["w"], (apart["w"] + state.anchor["w"]) / 2) < 1e-6


@pytest.mark.parametrize("mask", [{"w": False, "v": False}, lambda path: "x" in path])
def test_a_mask_that_pulls_nothing_is_refused(mask):
    with pytest.raises(ConfigError, match="none of the parameters v, w"):
        palsgd(0.5, 0.5, pull_mask=mask).init(model())
    palsgd(0.0, 0.5, pull_mask=mask).init(model())  # where there are no pulls at all


def test_the_mean_over_coins_is_a_step_on_the_penalised_loss():
    """1e5 replicas take one step; 3 standard errors."""
    count, p, kappa, rate = 100_000, 0.3, 0.5, 0.1
    local = jopt.palsgd(
        optax.identity(),
        rate,
        num_replicas=count,
        probability=p,
        strength=kappa,
        key=jax.random.key(5),
        mode="vmap",
    )
    w, a = jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])
    params, state = local.init(w)
    state = state._replace(anchor=a)
    batch = jnp.ones((count, 1))
    loss = lambda w, x: jnp.sum(w**2 * jnp.array([1.0, 3.0])) / 2 * x[0]  # noqa: E731
    after, _, _ = jax.jit(partial(local.local_step, loss))(params, state, batch)
    moves = np.asarray(after - w, np.float64)
    want = -rate * (np.array([1.0, -6.0]) + kappa * np.asarray(w - a))
    error = moves.std(axis=0) / np.sqrt(count)
    assert (np.abs(moves.mean(axis=0) - want) < 3 * error).all(), (moves.mean(0), want)


@pytest.mark.parametrize("mode", ["shard_map", "vmap"])
def test_replicas_in_turn_on_one_device_do_not_compute_what_is_skipped(mode):
    """A gradient tells the host that it was computed: 4 coins a step decide."""
    computed = []

    @jax.custom_vjp
    def told(w):
        return w

    def backward(_, gradient):
        jax.debug.callback(lambda _: computed.append(1), gradient)
        return (gradient,)

    told.defvjp(lambda w: (w, None), backward)
    one = jax.make_mesh((1,), ("replica",), (jax.sharding.AxisType.Auto,))
    local = palsgd(0.5, 0.1, mode=mode, mesh=one if mode == "shard_map" else None)
    start = local.init({"w": jnp.ones(3)})
    step = jax.jit(
        partial(local.local_step, lambda p, x: jnp.sum(told(p["w"]) ** 2 * x))
    )
    batch = jnp.ones((R, 1))
    pulls = 0
    for _ in range(4):
        *start, metrics = step(*start, batch)
        pulls += int(metrics["pseudo_sync"].sum())
    jax.effects_barrier()
    assert 0 < pulls < 4 * R
    skipped = pulls if mode == "shard_map" else 0
    assert len(computed) == 4 * R - skipped


@pytest.mark.slow
def test_shared_coins_and_what_the_caller_learns_of_them():
    for shared in (False, True):
        local = palsgd(0.5, 0.1, shared_coin=shared)
        (_, state), (_, _, metrics) = follow(local, data(8))
        seen = np.asarray(metrics["pseudo_sync"])
        assert (seen.min(axis=1) == seen.max(axis=1)).all() == shared
        told = [
            local.coins(state._replace(count=jnp.asarray(t, jnp.int32)))
            for t in range(8)
        ]
        np.testing.assert_array_equal(seen, np.asarray(told, np.float32))


@pytest.mark.parametrize("kind", ["rbg", "threefry2x32"])
@pytest.mark.parametrize("default", ["rbg", "threefry2x32"])
def test_coins_of_a_key_of_any_kind_are_a_function_of_key_step_and_replica(
    kind, default
):
    """Of each alone as of all together, for which keys of rbg draw otherwise."""
    key = jax.random.key(3, impl=kind)
    made = {"num_replicas": 8, "period": 4, "probability": 0.5, "strength": 0.1}
    with jax.default_prng_impl(default):
        local = jopt.palsgd(ADAM, 0.05, key=key, mode="vmap", **made)
        _, state = local.init(jnp.ones(2))
        told = local.coins(state)
        alone = [coin(state.key, state.count, jnp.int32(r), 0.5) for r in range(8)]
        assert told.tolist() == [bool(c) for c in alone]
        assert 0 < sum(told.tolist()) < 8
        pairs = jopt.noloco(ADAM, num_replicas=2, period=1, key=key, mode="vmap")
        params, state = pairs.init(jnp.ones(2))
        jax.eval_shape(pairs.sync, params, state)
        raw = jopt.palsgd(
            ADAM, 0.05, key=np.array([0, 3], np.uint32), mode="vmap", **made
        )
        if kind == "threefry2x32":  # whose raw data are these two words
            assert raw.coins(raw.init(jnp.ones(2))[1]).tolist() == told.tolist()


@pytest.mark.slow
def test_a_schedule_of_the_global_step_counts_pulls_too():
    rates = jnp.array([0.1, 0.2, 0.3, 0.4])
    made = {"num_replicas": R, "key": KEY, "mode": "vmap", "strength": 0.0}
    local = jopt.palsgd(optax.identity(), lambda t: rates[t], probability=0.5, **made)
    loss = lambda w, x: jnp.sum(w * x)  # noqa: E731
    (params, _), (_, _, metrics) = follow(
        local, jnp.ones((4, R, 1)), params=jnp.zeros(1), loss=loss
    )
    taken = 1 - np.asarray(metrics["pseudo_sync"])
    want = -(taken * np.asarray(rates)[:, None]).sum(axis=0) / 0.5
    np.testing.assert_allclose(params[:, 0], want, rtol=1e-6)


def test_a_schedule_that_is_clamped_is_warned_of():
    made = {"probability": 0.1, "num_replicas": 2, "key": KEY}
    with pytest.warns(JoptWarning, match=r"is 5 at step 0 and is clamped to 1"):
        jopt.palsgd(ADAM, lambda t: 1.0 / (1 + t), **made)
    # A peak at a step that nobody looks at is seen where it is known.
    narrow = lambda t: jnp.where(t == 300, 1.0, 0.01)  # noqa: E731
    with pytest.warns(JoptWarning, match=r"is 5 at its peak"):
        jopt.palsgd(ADAM, narrow, peak=1.0, **made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jopt.palsgd(ADAM, narrow, peak=0.01, **made)


def test_nesterov_gains():
    """Outer moves for a constant Delta = 1: 1.33, 1.897, 2.4073, 2.86657, ... 7."""
    moves, tx, a = [], NESTEROV, jnp.zeros(())
    local = local_updates(optax.sgd(1.0), tx, num_replicas=1, period=1, mode="vmap")
    loss = lambda w, x: w * x[0]  # noqa: E731
    _, (_, anchors, _) = follow(local, jnp.ones((90, 1, 1)), params=a, loss=loss)
    moves = -np.diff(np.concatenate([[0.0], np.asarray(anchors)]))
    np.testing.assert_allclose(moves[:4], [1.33, 1.897, 2.4073, 2.86657], rtol=1e-5)
    np.testing.assert_allclose(moves[-1], 7.0, rtol=1e-3)


@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=SLOW), 0.6])
def test_slowmo_is_heavy_ball_on_the_moves(beta):
    made = {"num_replicas": R, "period": 2, "mode": "vmap"}
    found = jopt.slowmo(optax.identity(), 0.1, alpha=0.9, beta=beta, **made)
    outer = optax.sgd(0.9, momentum=beta, nesterov=False)
    want = local_updates(optax.sgd(0.1), outer, **made)
    ends = [follow(local, data(6))[0][1].anchor for local in (found, want)]
    assert gap(*ends) < 1e-6


def test_warm_up_is_data_parallel_and_the_period_counts_from_its_end():
    batches, tx = data(10), optax.adamw(0.01)
    local = jopt.post_local_sgd(
        tx, warmup_steps=3, num_replicas=R, period=4, mode="vmap"
    )
    assert [t for t in range(12) if local.due(t)] == [7, 11]
    _, (params, anchors, _) = follow(local, batches)
    together = jax.tree.map(lambda x: x.reshape(10, -1, x.shape[-1]), batches)
    want = alone(tx, together, 3)
    at = lambda tree, t: jax.tree.map(lambda x: x[t], tree)  # noqa: E731
    assert gap(at(anchors, 2), want) < 1e-6
    spread = [float(jnp.ptp(params["w"][t], axis=0).max()) for t in range(10)]
    assert [s == 0 for s in spread] == [True] * 3 + [False] * 3 + [True] + [False] * 3
    # The anchor follows in the warm-up and then waits for the sync.
    assert same_bits(at(anchors, 2), at(anchors, 5))


def test_resuming_within_a_round_is_the_unbroken_run_to_the_bit():
    local = palsgd(0.3, 0.5, period=5)
    batches = data(13)
    step = jax.jit(partial(local.step, regression))

    def run(state, first, last):
        for t in range(first, last):
            state = step(*state, of_replica(batches, t))[:2]
        return state

    unbroken = run(local.init(model()), 0, 13)
    on_disk = jax.tree.map(np.asarray, run(local.init(model()), 0, 7))
    again = run(jax.tree.map(jnp.asarray, on_disk), 7, 13)
    assert same_bits(again, unbroken)
    other = run(local.init(model()), 0, 12)
    assert not same_bits(other[0], unbroken[0])


@pytest.mark.parametrize("mode", ["shard_map", pytest.param("vmap", marks=SLOW)])
def test_leaves_that_are_not_floating_and_buffers(mode):
    params = {"w": jnp.ones(3), "n": jnp.array(7), "on": jnp.array(True), "k": KEY}
    buffers = {"mean": jnp.zeros(2), "seen": jnp.array(0)}

    def loss(params, buffers, batch):
        new = {
            "mean": 0.5 * buffers["mean"] + jnp.mean(batch),
            "seen": buffers["seen"] + 1 + (batch[0] > 1),
        }
        return jnp.sum(params["w"] ** 2) * jnp.mean(batch), new

    local = local_updates(optax.sgd(0.1), None, num_replicas=2, period=1, mode=mode)
    params, state = local.init(params, buffers)
    batch = jnp.array([[1.0], [3.0]])
    step = jax.jit(partial(local.local_step, loss))
    params, state, _ = step(params, state, batch)
    np.testing.assert_allclose(state.buffers["mean"], [[1.0] * 2, [3.0] * 2])
    params, state = jax.jit(local.sync)(params, state)
    np.testing.assert_allclose(state.buffers["mean"], [[2.0] * 2] * 2)
    assert state.buffers["seen"].tolist() == [1, 1]  # as replica 0 has it
    assert params["n"].tolist() == [7, 7] and params["on"].tolist() == [True, True]
    one = local.eval_params(params, state)
    assert one["n"] == 7 and jnp.array_equal(
        jax.random.key_data(one["k"]), jax.random.key_data(KEY)
    )


@pytest.mark.slow
def test_anything_that_makes_gradients_can_stand_for_a_loss():
    def apply(params, buffers, batch):
        grads = jax.tree.map(lambda w: jnp.full_like(w, batch[0]), params)
        return Evaluated(jnp.float32(2.0), grads, buffers, {"norm": batch[0]})

    local = palsgd(0.5, 0.1)
    params, state = local.init(model())
    batch = jnp.arange(1.0, R + 1)[:, None]
    step = jax.jit(partial(local.local_step, ReplicaGradient(apply)))
    _, _, metrics = step(params, state, batch)
    pulled = np.asarray(local.coins(state))
    want = np.where(pulled, np.nan, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(metrics["norm"], want)


def test_one_replica_with_nan_is_left_out_and_comes_back():
    local = jopt.diloco(ADAM, num_replicas=R, period=2, learning_rate=0.01, mode="vmap")
    x, y = (np.array(part) for part in data(6))
    x[0, 1, 0, 0] = np.nan
    x[2] = np.nan  # of all, in the second round
    (params, state), (_, anchors, _) = follow(local, (x, y))
    assert bool(jopt.tree.all_finite((params, state)))
    assert float(state.metrics["dropped_total"]) == 1 + R
    assert float(state.metrics["dropped"]) == 0
    second = jax.tree.map(lambda a: (a[1], a[3]), anchors)
    assert all(same_bits(*pair) for pair in second.values())  # nobody was left
    others = [0, 2, 3]
    few = jopt.diloco(ADAM, num_replicas=3, period=2, learning_rate=0.01, mode="vmap")
    _, (_, want, _) = follow(few, (x[:2, others], y[:2, others]))
    assert gap(*(jax.tree.map(lambda a: a[1], tree) for tree in (anchors, want))) < 1e-6


@pytest.mark.slow
def test_bfloat16_replicas_have_a_float32_anchor():
    local = jopt.diloco(optax.sgd(0.1), num_replicas=2, period=2, mode="vmap")
    (params, state), _ = follow(local, data(4, 2), params=model(jnp.bfloat16))
    assert params["w"].dtype == jnp.bfloat16 and state.anchor["w"].dtype == jnp.float32
    trace = state.outer_state[0][0].trace["w"]
    assert trace.dtype == jnp.float32
    cast = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state.anchor)
    for r in range(2):
        assert same_bits(of_replica(params, r), cast)


@pytest.mark.slow
def test_the_end_sends_what_is_left_and_nothing_twice():
    local = jopt.diloco(optax.sgd(0.1), num_replicas=R, period=3, mode="vmap")
    params, state = follow(local, data(4))[0]
    mean = local.eval_params(params, state, "mean")
    first = local.eval_params(params, state, "replica0")
    assert gap(first, jax.tree.map(lambda w: w[0], params)) == 0
    assert gap(mean, jax.tree.map(lambda w: w.mean(axis=0), params)) < 1e-6
    done, end = jax.jit(local.finalize)(params, state)
    want, want_state = jax.jit(local.sync)(params, state)
    assert gap((done, end.anchor), (want, want_state.anchor)) < 1e-6
    again = jax.jit(local.finalize)(done, end)
    assert same_bits(again, (done, end))


def test_a_period_that_is_a_function_is_asked_on_the_host():
    local = jopt.local_sgd(
        optax.sgd(0.1), num_replicas=2, period=lambda t: 2 + t // 4, mode="vmap"
    )
    assert [t for t in range(16) if local.due(t)] == [2, 4, 7, 10, 14]
    started = jax.eval_shape(local.init, model())
    with pytest.raises(ConfigError, match="only the host can ask"):
        jax.eval_shape(
            partial(local.step, regression), *started, of_replica(data(1, 2), 0)
        )


@pytest.mark.slow
def test_numbers_may_be_traced():
    """One program for several strengths, rates and momenta."""
    batches = data(5)

    def end(p, kappa, rate, momentum):
        local = jopt.palsgd(
            ADAM, rate, probability=p, strength=kappa, num_replicas=R, period=2,
            key=KEY, mode="vmap", outer_momentum=momentum,
        )  # fmt: skip

        def one(carry, batch):
            params, state, _ = local.step(regression, *carry, batch)
            return (params, state), None

        return jax.lax.scan(one, local.init(model()), batches)[0][1].anchor

    numbers = [(0.0, 0.1, 0.01, 0.9), (0.5, 0.5, 0.02, 0.5)]
    columns = [jnp.array(column) for column in zip(*numbers, strict=True)]
    found = jax.jit(jax.vmap(end))(*columns)
    for number, values in enumerate(numbers):
        assert gap(of_replica(found, number), jax.jit(end)(*values)) < 1e-5
    without = jopt.diloco(
        ADAM, num_replicas=R, period=2, learning_rate=0.01, mode="vmap"
    )
    (_, state), _ = follow(without, batches)
    assert gap(of_replica(found, 0), state.anchor) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 0}, "num_replicas is 0"),
        ({"period": 0}, "period is 0"),
        ({"mode": "pmapp"}, "did you mean 'pmap'"),
        ({"pseudo_sync": PseudoSync(1.0), "learning_rate": 0.1}, "probability .* 1.0"),
        ({"pseudo_sync": PseudoSync(0.1)}, "pass learning_rate="),
        ({"pseudo_sync": PseudoSync(0.1), "learning_rate": 0.1}, "key=jax.random"),
        ({"pseudo_sync": PseudoSync(0.1, 5.0), "learning_rate": 0.1}, "pull factor"),
        ({"fragments": 5, "period": 4}, "do not fit"),
        ({"fragments": 2, "period": 4, "delay": 2}, "less than the 2 steps"),
        ({"fragments": 3, "period": 4, "strict": True}, "do not divide"),
        ({"mix": 1.5}, "mix is 1.5"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_what_cannot_be_fails_at_once(options, message):
    made = {"num_replicas": 2, "period": 4, **options}
    with pytest.raises(ConfigError, match=message):
        local_updates(optax.sgd(0.1), None, **made)


def test_batches_are_split_and_checked():
    local = jopt.local_sgd(optax.sgd(0.1), num_replicas=2, mode="vmap")
    assert local.split({"x": jnp.zeros((6, 3))})["x"].shape == (2, 3, 3)
    with pytest.raises(ShapeError, match=r"batch x has shape \(5, 3\)"):
        local.split({"x": jnp.zeros((5, 3))})
    params, state = local.init(model())
    with pytest.raises(ShapeError, match=r"LocalUpdates\.split"):
        local.local_step(quadratic, params, state, {"x": jnp.zeros((6, 3))})
    with pytest.raises(ConfigError, match="only when all have met"):
        local.resize(params, state._replace(count=state.count + 1), 4)


@pytest.mark.slow
def test_the_page_shows_what_runs():
    page = Path(__file__).parents[2] / "docs/local_updates.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    # The targets are the first two inputs.
    assert float(names["metrics"]["loss"].max()) < 2
    assert names["model"]["w"].shape == (3, 2)
    assert names["local"].settings.pseudo_sync.probability == 0.1


INNER = {
    "muon": jopt.muon(0.02),
    "signum": jopt.signum(0.01, 0.9),
    "adgd": jopt.adgd(gradient_pair="same_batch"),
    "adafactor": optax.adafactor(0.01),
    "ema of gradients": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
}
OUTER = {"adam": optax.adam(0.01), "muon": jopt.muon(0.5, fallback=optax.sgd(0.5))}


@pytest.mark.slow
@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("outer", OUTER)
def test_any_optimizer_inside_and_outside(name, outer):
    """And the same numbers with replicas in turn and together."""
    params = {"w": jnp.eye(5, 4) / 2, "v": jnp.eye(4, 2)}
    ends = []
    for mode in ("shard_map", "vmap"):
        local = local_updates(
            INNER[name], OUTER[outer], num_replicas=2, period=2, mode=mode
        )
        (_, state), _ = follow(local, data(4, 2), params=params)
        ends.append(state.anchor)
    assert gap(*ends) < 1e-4
    assert gap(ends[0], params) > 1e-3


@pytest.mark.slow
def test_presets_around_muon_and_trees_without_entries():
    params = {"blocks": {"0": {"kernel": jnp.eye(5, 4)}}, "none": jnp.zeros((0, 3))}

    def loss(params, batch):
        return jnp.mean((batch[0] @ params["blocks"]["0"]["kernel"]) ** 2)

    for compressor in (None, int4()):
        local = jopt.muloco(
            0.02, num_replicas=2, period=2, mode="vmap", compressor=compressor
        )
        (after, _), _ = follow(local, data(4, 2), params=params, loss=loss)
        assert bool(jopt.tree.all_finite(after)) and after["none"].shape == (2, 0, 3)
    nothing = jopt.local_sgd(optax.sgd(0.1), num_replicas=2, period=1, mode="vmap")
    found, _ = follow(nothing, data(2, 2), params={}, loss=lambda p, b: jnp.sum(b[0]))
    assert found[0] == {} and int(found[1].count) == 2


WORKER = Path(__file__).with_name("local_updates_worker.py")


@pytest.mark.devices
def test_what_the_programs_send_on_four_devices(on_devices):
    programs = json.loads(on_devices(4, WORKER, "programs"))["programs"]
    own = programs["shard_map"]
    # A branch of its own for each replica; under vmap both sides are computed.
    assert own["conditionals"] == 1 and programs["vmap"]["conditionals"] == 0
    # Two on each device run in turn, in a loop with a branch in it.
    assert programs["two a device"] == {"conditionals": 1, "crossing": 0}
    # Gradients are summed within a replica, and nothing crosses.
    assert own["crossing"] == 0 and own["inside"] >= 1, own
    assert {kind for kind, _ in own["sync"]} == {"all-reduce"}
    assert own["bytes"] == 4 * programs["parameters"] + 4  # 4 to count who is kept
    # A data-parallel step sends that each time, the replicas every H steps.
    assert programs["warmup"] == 4 * programs["parameters"]
    # So twelve steps send an H-th, and 4 bytes at each sync to count who is kept.
    for period, (sent, data_parallel) in programs["rounds"].items():
        assert data_parallel == 12 * 4 * programs["parameters"]
        assert sent == (data_parallel + 12 * 4) / int(period), period


@pytest.mark.slow
@pytest.mark.devices
def test_rounds_and_replicas_on_four_devices(on_devices):
    sections = ("modes", "bit-equal", "nonfinite", "resizing")
    found = json.loads(on_devices(4, WORKER, *sections))
    modes = found["modes"]
    assert max(modes["apart"].values()) < 1e-6, modes
    assert modes["same coins"] and modes["pulls"] > 0
    assert found["bit-equal"] == {"float32": 0, "bfloat16": 0}  # over 1000 rounds
    nan = found["nonfinite"]
    assert nan["one left"] < 1e-6 and nan["none left"] == 0 and nan["finite"]
    assert [nan["dropped 2"], nan["dropped 4"], nan["dropped 6"]] == [1, 2, 0]
    sizes = found["resizing"]
    assert sizes["moved"] == [0, 0] and sizes["finite"] and sizes["count"] == 12
    assert sizes["adam"] == [12] * 4 and sizes["loss"] < 1
