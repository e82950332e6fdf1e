"""How replicas meet: fewer bits, fragments, a round late, in pairs, one by one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.transforms import (
    Compressor,
    compressed_mean,
    delayed_nesterov,
    e3m0,
    eager_exchange,
    int4,
    int8,
    local_updates,
    pair_exchange,
    simulate_asynchronous,
    top_k,
    two_bit,
)
from jopt.transforms.replicas._exchange import Meeting
from jopt.transforms.replicas._fragments import assign
from jopt.transforms.replicas._pairs import pairings
from jopt.transforms.replicas._places import Block, Places

R = 3
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)
NORMAL = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
TAILS = np.random.default_rng(0).standard_t(2, size=(4, 1000)).astype(np.float32)
IDENTITY = Compressor("identity", 1, lambda x: x, lambda x, length: x)


def round_trip(compressor, x):
    return np.asarray(compressor.decode(compressor.encode(jnp.asarray(x)), x.shape[1]))


def relative_error(compressor, x):
    x = x.astype(np.float32)
    error = round_trip(compressor, x).astype(np.float64) - x
    return np.linalg.norm(error) / np.linalg.norm(x.astype(np.float64))


@pytest.mark.parametrize(("make", "most", "codes"), [(int8, 127, 1), (int4, 7, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_whole_numbers_are_off_by_half_a_level(make, most, codes, scale):
    x = NORMAL * np.float32(scale)
    unit = np.abs(x).max(axis=1, keepdims=True) / most
    assert (np.abs(round_trip(make(), x) - x) <= unit / 2 * (1 + 1e-5)).all()
    coded = make().encode(jnp.asarray(x))
    assert coded.codes.dtype == jnp.uint8 and coded.codes.shape[1] == 1000 // codes
    assert not round_trip(make(), np.zeros_like(x)).any()


def test_few_bits_on_normal_and_heavy_tailed_moves():
    assert abs(relative_error(two_bit(), NORMAL) - 0.343) < 0.01
    # Exponents are worth it where a few entries are large, and only there.
    assert 1.3 < relative_error(e3m0(), NORMAL) / relative_error(int4(), NORMAL) < 1.5
    assert relative_error(e3m0(), TAILS) < 0.5 * relative_error(int4(), TAILS)
    for x in (TAILS, NORMAL * 1e-30, np.eye(4, 1000, dtype=np.float32)):
        assert relative_error(two_bit(), x) < 1  # a projection, whatever x is
        assert relative_error(top_k(0.1), x) < 1


SLOW = pytest.mark.slow


@pytest.mark.parametrize("wire", ["all_gather", "all_to_all"])
@pytest.mark.parametrize(
    "compressor",
    [
        IDENTITY,
        int4(),
        top_k(0.3),
        *(pytest.param(c, marks=SLOW) for c in (int8(), e3m0(), two_bit())),
    ],
)
def test_error_feedback_loses_nothing(compressor, wire):
    """What is left of a move is what its code lacks, and that is little.

    So sums of what was sent and what is left are the sums of the moves; in parts but
    for a second rounding, of the mean, which is not fed back.
    """
    if wire == "all_to_all" and not compressor.by_rows:
        with pytest.raises(ConfigError, match="whole arrays"):
            compressed_mean(compressor, wire=wire)
        return
    exchange = compressed_mean(compressor, wire=wire)
    like = {"w": jnp.zeros((5, 3)), "v": jnp.zeros((6, 4)), "n": None}
    memory = exchange.init(Places(R, "vmap", None), like)
    block = Block(R, R, None, False)
    meet = jax.jit(
        lambda moves, keep, memory: exchange.meet(
            block,
            Meeting(moves, keep, like, memory, jnp.zeros(2, jnp.uint32), jnp.array(0)),
        )
    )
    parts = R if wire == "all_to_all" else 1
    rng = np.random.default_rng(2)
    first, second = [], []  # what a rounding lost, over the most that it may lose
    for number in range(6):
        shapes = {name: (R, *leaf.shape) for name, leaf in like.items() if name != "n"}
        move = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
        keep = np.array([True, number != 2, True])  # one is left out once
        met = meet({**move, "n": None}, keep, memory)
        for name in shapes:
            before, left = (np.asarray(m[name], float) for m in (memory, met.memory))
            assert np.array_equal(left[~keep], before[~keep])
            whole = (before + move[name])[keep]
            most = np.stack([most_lost(compressor, x, parts) for x in whole])
            first.append(over(left[keep], most))
            assert left.any() == (compressor is not IDENTITY)
            mean = (whole - left[keep]).mean(axis=0)
            lost = np.asarray(met.gradient[name]) - mean
            again = most_lost(compressor, mean, R) if parts == R else 0 * mean
            second.append(over(lost, again))
        memory = met.memory
    assert max(first) <= 1
    assert max(second) <= 1
    if compressor.name in ("int4", "int8", "e3m0"):  # whose bounds are reached
        assert max(first) > 0.9
        assert max(second) > 0.9 or parts == 1


def over(lost, most):
    """The largest share of a bound that is used, beside float32 rounding."""
    return float(np.max((np.abs(lost) - 2e-6) / np.maximum(most, 1e-6)))


def most_lost(compressor, x, parts):
    """The most that one coding of each entry may lose, where parts are scaled apart.

    Half of a level for whole numbers. E3M0 goes to the nearest power of two, a third of
    the entry away, and below its smallest power 2^-6 to that or to 0. Of two bits, a
    projection, the row loses at most its norm.
    """
    flat = np.pad(x.ravel(), (0, -x.size % (parts * compressor.multiple)))
    rows = flat.reshape(parts, -1)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    bounds = {
        "identity": 0 * rows,
        "int8": largest / 127 / 2,
        "int4": largest / 7 / 2,
        "e3m0": np.maximum(np.abs(rows) / 3, largest / 2**7),
        "two_bit": np.linalg.norm(rows, axis=1, keepdims=True),
        "top_k(0.3)": np.abs(rows),
    }
    found = np.broadcast_to(bounds[compressor.name], rows.shape)
    return found.ravel()[: x.size].reshape(x.shape)


def loss(params, x):
    return sum(jnp.sum((w - x[0]) ** 2) for w in jax.tree.leaves(params)) / 2


LAYERS = {
    "embed": jnp.ones(2),
    "blocks": {str(i): {"w": jnp.full(2, i + 1.0)} for i in range(4)},
    "head": jnp.zeros(2),
}


def follow(local, steps, params=LAYERS, start=None, replicas=2):
    """The end, and parameters and anchors after every step."""
    x = np.random.default_rng(3).normal(size=(steps, replicas, 1)).astype(np.float32)

    def one(carry, batch):
        params, state, _ = local.step(loss, *carry, batch)
        return (params, state), (params, state.anchor, state.synced)

    run = jax.jit(partial(jax.lax.scan, one))
    return run(local.init(params) if start is None else start, x)


def gap(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def at(tree, t):
    return jax.tree.map(lambda x: x[t], tree)


def test_fragments_are_all_leaves_once_and_layers_are_dealt_out():
    found = assign(3, None, LAYERS)
    assert found.of_leaf == (0, 1, 0, 1, 2, 2)  # layers 0 to 3, embed, head
    parts = found.parts(LAYERS)
    assert sum(len(jax.tree.leaves(part)) for part in parts) == 6
    own = assign(2, lambda path: int(path.startswith("blocks")), LAYERS)
    assert own.of_leaf == (1, 1, 1, 1, 0, 0)
    assert assign(2, None, {"a": 1, "b": 2, "c": 3}).of_leaf == (0, 1, 0)
    with pytest.raises(ConfigError, match=r"\[4\] have no parameters"):
        assign(6, None, LAYERS)


def test_streaming_sends_each_fragment_in_its_turn_and_mixes_it_in_later():
    made = {"num_replicas": 2, "period": 7, "fragments": 3, "mode": "vmap"}
    local = jopt.streaming_diloco(optax.sgd(0.1), delay=1, mix=0.25, **made)
    assert local.overlap == "semantic" and local.settings.rounds.effective_period == 6
    _, (params, anchors, synced) = follow(local, 12)
    # Sent at 2, 4, 6, ...: the fragments 1, 2, 0, 1, 2, 0.
    changes = np.argwhere(np.diff(synced, axis=0, prepend=0) > 0)
    assert changes.tolist() == [[1, 1], [3, 2], [5, 0], [7, 1], [9, 2], [11, 0]]
    fragments = assign(3, None, LAYERS)
    apart, _ = follow(local, 2)
    batch = np.random.default_rng(3).normal(size=(3, 2, 1)).astype(np.float32)[2]
    step = jax.jit(partial(local.local_step, loss))
    alone, _, _ = step(*apart, batch)
    for number in range(3):
        here, there, anchor = (
            fragments.part(tree, number)
            for tree in (at(params, 2), alone, at(anchors, 2))
        )
        share = 0.25 if number == 1 else 1.0  # only what was sent at step 2
        want = jax.tree.map(lambda w, a, s=share: s * w + (1 - s) * a, there, anchor)
        assert gap(here, want) < 1e-6


def diloco_by_hand(steps, period, offset=0):
    """Two replicas of one leaf that begins at 1, in numbers: anchors after each step.

    They meet where `period` divides the step less `offset`.
    """
    x = np.random.default_rng(3).normal(size=(steps, 2, 1)).astype(np.float64)
    anchor, trace = np.ones(1), np.zeros(1)
    theta, seen = np.stack([anchor] * 2), []
    for t in range(steps):
        theta = theta - 0.1 * (theta - x[t])
        if t + 1 > offset and (t + 1 - offset) % period == 0:
            move = anchor - theta.mean(axis=0)
            trace = 0.9 * trace + move
            anchor = anchor - 0.7 * (move + 0.9 * trace)
            theta = np.stack([anchor] * 2)
        seen.append(anchor)
    return np.stack(seen)


def test_streaming_is_diloco_of_each_fragment_and_with_mix_1_nobody_hears():
    """Of one, and of each of two, which do not know of each other in this loss."""
    made = {"num_replicas": 2, "period": 4, "mode": "vmap"}
    rates = {"outer_learning_rate": 0.7, "delay": 0}
    two = {"a": jnp.ones(1), "b": jnp.ones(1)}
    for fragments in (1, 2):
        local = jopt.streaming_diloco(
            optax.sgd(0.1), fragments=fragments, mix=0.0, **rates, **made
        )
        _, (_, anchors, _) = follow(local, 12, params=two)
        a = diloco_by_hand(12, period=4)
        # The second one of two is sent first, after half a period.
        b = a if fragments == 1 else diloco_by_hand(12, period=4, offset=-2)
        np.testing.assert_allclose(anchors["a"], a, rtol=1e-5)
        np.testing.assert_allclose(anchors["b"], b, rtol=1e-5)
    deaf = {"fragments": 3, "mix": 1.0, **rates, **made}
    found = follow(jopt.streaming_diloco(optax.sgd(0.1), **deaf), 6)[0][0]
    never = {**made, "period": 100}
    want = follow(jopt.diloco(optax.sgd(0.1), **never), 6)[0][0]
    assert gap(found, want) < 1e-6


def test_buffers_that_are_not_finite_cost_one_fragment_and_not_the_round():
    """What is sound of them stays until the last fragment brings their means."""
    made = {"num_replicas": 2, "period": 6, "fragments": 3, "mode": "vmap"}
    local = jopt.streaming_diloco(optax.sgd(0.1), delay=0, mix=0.0, **made)

    def with_statistics(params, seen, x):
        return loss(params, x), 0.5 * seen + 0.5 * x

    params, state = local.init(LAYERS, jnp.full(2, 8.0))
    step = jax.jit(partial(local.step, with_statistics))
    dropped = []
    for t in range(6):
        x = jnp.ones((2, 2)).at[1, 0].set(jnp.nan if t == 0 else 1.0)
        params, state, _ = step(params, state, x)
        dropped.append(float(state.metrics["dropped"]))
        if t == 1:
            # (8 + 1) / 2 + 1, halved; what was NaN began again from 0.
            assert state.buffers.tolist() == [[2.75, 2.75], [0.0, 2.75]]
    assert dropped == [0, 1, 1, 0, 0, 0]  # sent after 2, 4 and 6 steps
    own, spoilt = 1 + 7 / 2**6, 1 - 1 / 2**4
    want = [(own + spoilt) / 2, own]
    np.testing.assert_allclose(state.buffers, [want, want], rtol=1e-6)


def test_eager_with_one_replica_is_diloco_and_else_its_formula():
    made = {"period": 2, "mode": "vmap", "exchange": eager_exchange()}
    plain = {"period": 2, "mode": "vmap"}
    one = follow(jopt.diloco(optax.sgd(0.1), num_replicas=1, **made), 6, replicas=1)
    want = follow(jopt.diloco(optax.sgd(0.1), num_replicas=1, **plain), 6, replicas=1)
    # Nothing else is added; programs of other shapes may round otherwise.
    assert gap(at(one[0][1].anchor, 0), want[0][1].anchor) < 3e-7
    local = local_updates(optax.sgd(0.1), optax.sgd(1.0), num_replicas=2, **made)
    w = {"w": jnp.ones(1)}
    (end, state), (params, anchors, _) = follow(local, 5, params=w)
    x = np.random.default_rng(3).normal(size=(5, 2, 1)).astype(np.float64)
    a = np.ones((2, 1))
    own, mean = np.zeros((2, 1)), np.zeros(1)
    for k in range(2):
        theta = a.copy()
        for t in (2 * k, 2 * k + 1):
            theta -= 0.1 * (theta - x[t])
        move = a - theta
        a = a - (mean + (move - own) / 2)
        own, mean = move, move.mean(axis=0)
        assert np.abs(np.asarray(anchors["w"][2 * k + 1]) - a).max() < 1e-6
    assert gap(at(params, 3), at(anchors, 3)) == 0
    done, _ = jax.jit(local.finalize)(end, state)
    assert float(jnp.ptp(done["w"], axis=0).max()) == 0  # a blocking mean ends it


def test_eager_updates_lose_no_mean_to_replicas_that_are_dropped():
    """What a replica was ahead is taken back, and a mean waits for its outer step."""
    exchange, block = eager_exchange(), Block(R, R, None, False)
    memory = exchange.init(Places(R, "vmap", None), jnp.zeros(4))
    meet = jax.jit(
        lambda moves, keep, memory: exchange.meet(
            block,
            Meeting(moves, keep, jnp.zeros((R, 4)), memory, jnp.zeros(2), jnp.array(0)),
        )
    )
    rng = np.random.default_rng(6)
    everyone, nobody = [True] * R, [False] * R
    keeps = [everyone, [True, False, True], nobody, [False, True, True], everyone]
    taken, means = np.zeros((R, 4)), np.zeros(4)
    for number, keep in enumerate([*keeps, everyone]):
        moves = rng.normal(size=(R, 4)).astype(np.float32)
        moves *= number < len(keeps)  # the last one only waits
        met = meet(moves, jnp.array(keep), memory)
        memory = met.memory
        assert met.kept.tolist() == [sum(keep)] * R
        if any(keep):
            taken += np.asarray(met.gradient)
            means += moves[np.array(keep)].mean(axis=0)
    np.testing.assert_allclose(taken, np.broadcast_to(means, (R, 4)), atol=1e-6)


def test_pairings_are_rounds_of_a_tournament():
    for replicas in (2, 4, 5, 8):
        rounds = pairings(replicas)
        meetings = set()
        for partner in rounds:
            assert (partner[partner] == np.arange(replicas)).all()
            alone = (partner == np.arange(replicas)).sum()
            assert alone == replicas % 2
            meetings |= {(i, int(j)) for i, j in enumerate(partner) if i < j}
        assert len(meetings) == replicas * (replicas - 1) // 2


def test_noloco_is_its_formula_and_anchors_come_together():
    eta, mu, gamma = 0.6, 0.5, 0.3
    local = jopt.noloco(
        optax.sgd(0.1),
        num_replicas=4,
        period=1,
        key=jax.random.key(2),
        outer_learning_rate=eta,
        outer_momentum=mu,
        consensus=gamma,
        mode="vmap",
    )
    w = {"w": jnp.ones(1)}
    _, state = local.init(w)
    apart = {"w": jnp.arange(4.0)[:, None]}
    state = state._replace(anchor=apart)
    _, (_, anchors, _) = follow(local, 12, start=(apart, state), replicas=4)
    x = np.random.default_rng(3).normal(size=(12, 4, 1)).astype(np.float64)
    a, delta = np.arange(4.0)[:, None], np.zeros((4, 1))
    seen = np.concatenate([a[None], np.asarray(anchors["w"])])
    for t in range(12):
        a = seen[t]
        move = a - (a - 0.1 * (a - x[t]))
        options = []
        for partner in pairings(4):
            mean, middle = (move + move[partner]) / 2, (a + a[partner]) / 2
            options.append(mu * delta - eta * mean - gamma * (a - middle))
        errors = [np.abs(a + d - seen[t + 1]).max() for d in options]
        assert min(errors) < 1e-5
        delta = options[int(np.argmin(errors))]
    assert np.ptp(seen[-1]) < 0.5 * np.ptp(seen[0])


def test_delayed_nesterov_is_its_formula_and_nesterov_with_one_worker():
    rng = np.random.default_rng(4)
    moves = rng.normal(size=(9, 3)).astype(np.float32)

    def path(tx):
        def one(carry, g):
            w, state = carry
            updates, state = tx.update(g, state, w)
            return (optax.apply_updates(w, updates), state), w

        return jax.lax.scan(one, (jnp.zeros(3), tx.init(jnp.zeros(3))), moves)[0][0]

    assert gap(path(delayed_nesterov(0.7, 0.9, pushes=1)), path(NESTEROV)) < 1e-6
    for spread in (0.0, 0.25):
        eta, beta, every = 0.7, 0.9, 4
        w, m, buf = np.zeros(3), np.zeros(3), np.zeros(3)
        for number, g in enumerate(moves.astype(np.float64), 1):
            buf = buf + g
            share = spread
            if number % every == 0:
                m, buf = beta * m + buf / every, np.zeros(3)
                share = 1 - spread * every + spread
            w = w - eta * (share * beta * m + g / every)
        found = path(delayed_nesterov(eta, beta, pushes=every, spread=spread))
        assert np.abs(np.asarray(found) - w).max() < 1e-5


def test_the_simulator_of_workers_that_do_not_wait():
    def batch_of(worker, step):
        return np.float32([np.sin(7 * worker + step)])

    w = {"w": jnp.ones(2)}
    run = partial(
        simulate_asynchronous, optax.sgd(0.1), loss_fn=loss, params=w, batch_of=batch_of
    )
    one = run(outer=NESTEROV, steps_per_sec=[1.0], period=3, pushes=2)
    local = jopt.diloco(optax.sgd(0.1), num_replicas=1, period=3, mode="vmap")
    params, state = local.init(w)
    step, sync = jax.jit(partial(local.local_step, loss)), jax.jit(local.sync)
    for t in range(6):
        params, state, _ = step(params, state, batch_of(0, t)[None])
        if local.due(t + 1):
            params, state = sync(params, state)
    assert gap(one.anchor, state.anchor) < 1e-6
    speeds = {"steps_per_sec": [4.0, 2.0, 1.0], "period": 4, "pushes": 7}
    outer = delayed_nesterov(pushes=3)
    found = run(outer=outer, **speeds)
    assert [p.steps for p in found.pushes[:3]] == [4, 2, 1]  # all are done together
    assert [p.secs for p in found.pushes] == [1.0] * 3 + [2.0] * 3 + [3.0]
    assert [p.staleness for p in found.pushes] == [0, 1, 2, 2, 2, 2, 2]
    same = run(outer=outer, dynamic=False, **speeds)
    pushed = [sum(p.worker == w for p in same.pushes) for w in range(3)]
    assert pushed == [4, 2, 1]
    noisy = [run(outer=outer, jitter=0.3, seed=s, **speeds) for s in (1, 1, 2)]
    assert noisy[0].pushes == noisy[1].pushes != noisy[2].pushes
    assert jopt.tree.digest(noisy[0].anchor) == jopt.tree.digest(noisy[1].anchor)
    with pytest.raises(ConfigError, match="positive speed"):
        run(outer=outer, steps_per_sec=[], period=1, pushes=1)


@pytest.mark.slow
def test_compressed_diloco_learns_in_two_bits():
    made = {"num_replicas": 2, "period": 4, "mode": "vmap"}
    ends = {}
    for name, compressor in {"float32": None, "two_bit": two_bit()}.items():
        local = jopt.diloco(optax.sgd(0.1), compressor=compressor, **made)
        ends[name] = follow(local, 40)[0][1].anchor
    # From distances of up to 4 to the noise of the data.
    assert max(float(jnp.abs(w).max()) for w in jax.tree.leaves(ends["two_bit"])) < 1
    assert gap(*ends.values()) < 0.2


@pytest.mark.slow
def test_another_number_of_replicas_sends_on_what_was_kept_back():
    made = {"period": 2, "mode": "vmap", "compressor": int4()}
    local = jopt.diloco(optax.sgd(0.1), num_replicas=2, **made)
    params, state = follow(local, 2)[0]
    kept = jax.tree.map(lambda e: np.asarray(e).mean(axis=0), state.memory)
    local, params, after = local.resize(params, state, 3, inner_state="reset")
    assert gap(jax.tree.map(lambda e: e.mean(axis=0), after.memory), kept) < 1e-6
    assert gap(at(params, 2), state.anchor) == 0 and local.num_replicas == 3
    follow(local, 2, start=(params, after), replicas=3)


def test_what_does_not_go_together():
    made = {"num_replicas": 2, "period": 4}
    with pytest.raises(ConfigError, match="both say what is sent"):
        local_updates(
            optax.sgd(0.1), None, compressor=int4(), exchange=eager_exchange(), **made
        )
    with pytest.raises(ConfigError, match="all parameters at once"):
        local_updates(
            optax.sgd(0.1), None, fragments=2, exchange=eager_exchange(), **made
        )
    with pytest.raises(ConfigError, match="shard_outer cuts"):
        local_updates(optax.sgd(0.1), None, shard_outer=True, mode="vmap", **made)
    local = local_updates(
        optax.sgd(0.1), None, exchange=pair_exchange(1.0), key=jax.random.key(0), **made
    )
    params, state = jax.eval_shape(local.init, LAYERS)
    if len(jax.devices()) == 1:
        with pytest.raises(ConfigError, match="a device for each replica"):
            jax.eval_shape(local.sync, params, state)
    with pytest.raises(ConfigError, match="cannot change in number"):
        local.resize(params, state, 3)


@pytest.mark.slow
@pytest.mark.devices
def test_exchanges_on_four_devices(on_devices):
    script = Path(__file__).with_name("exchanges_worker.py")
    found = json.loads(on_devices(4, script))
    entries = found.pop("parameters")
    assert max(way["apart"] for way in found.values()) < 1e-5, found

    def sizes(name, kind, dtype):
        return sum(s for k, d, s in found[name]["sent"] if (k, d) == (kind, dtype))

    # Half a byte for each entry from each of 4, own one included; 8 for a padded 3.
    padded = entries - 3 + 8
    assert sizes("int4 gathered", "all-gather", "u8") == 4 * (entries + 1) // 2
    assert sizes("int4 in parts", "all-to-all", "u8") == padded // 2
    assert sizes("int4 in parts", "all-gather", "u8") == padded // 2
    for name in ("int4 gathered", "int4 in parts"):
        assert sizes(name, "all-reduce", "f32") <= 4  # the count of replicas
    # Every branch sends move, anchor and a flag to one other; nothing is summed.
    kinds = {kind for kind, *_ in found["pairs"]["sent"]}
    assert kinds == {"collective-permute"}, found["pairs"]
    assert sizes("pairs", "collective-permute", "f32") == 3 * (8 * entries + 4)
    # What 4 devices divide is scattered and gathered, the odd one summed.
    assert sizes("outer shards", "reduce-scatter", "f32") == entries - 3
    assert sizes("outer shards", "all-gather", "f32") == 4 * (entries - 3) + 16
    assert "replica" in found["outer shards"]["anchor"]
