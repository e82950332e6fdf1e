"""Replays, recorded points, off-path cosines, traces and their schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.errors import ConfigError, ReplayError
from jopt.landscape.paths import (
    PathTrace,
    checkpoint_path,
    path_point,
    record_path,
    two_pass,
)
from jopt.optimizers import read_table, schedule_from_config
from jopt.training._checkpoints import Checkpoints
from jopt.tree import digest

STEPS = 12


def network(seed=0, dtype=jnp.float32):
    """A two-layer network on batches that follow from the step, with Adam."""
    rng = np.random.default_rng(seed)
    params = {
        "a": jnp.asarray(rng.standard_normal((4, 8)) / 2, dtype),
        "b": jnp.asarray(rng.standard_normal((8, 3)) / 3, dtype),
    }
    inputs = jnp.asarray(rng.standard_normal((STEPS + 1, 16, 4)), dtype)
    targets = jnp.asarray(rng.integers(3, size=(STEPS + 1, 16)))

    def loss(params, step):
        logits = jnp.tanh(inputs[step] @ params["a"]) @ params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, targets[step]
        ).mean()

    return params, loss


class Run:
    """Training as `train_fn` sees it; a state is (params, opt_state, step)."""

    def __init__(self, tx=None):
        self.tx = tx or optax.adam(0.05)
        self.params, self.loss = network()
        self.step = jax.jit(self._step, donate_argnums=0)
        self.grad = jax.jit(jax.grad(self.loss))
        self.gradients = 0

    def init(self):
        params = jax.tree.map(jnp.copy, self.params)
        return params, self.tx.init(params), jnp.zeros((), jnp.int32)

    def _step(self, state):
        params, opt_state, step = state
        grads = jax.grad(self.loss)(params, step)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, step + 1

    def train_fn(self, state):
        self.gradients += 1
        params, _, step = state
        copy = jax.tree.map(jnp.copy, params)
        return copy, self.grad(params, step), self.step(state)

    def trace(self, **options):
        return two_pass(
            self.train_fn,
            self.init,
            steps=STEPS,
            params_of=lambda state: state[0],
            **options,
        )


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def trace(run):
    return run.trace(lags=(1, 5, 50))


def flat(tree):
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def walk(run):
    """Parameters and gradients of every step, in float64."""
    state, ws, gs = run.init(), [], []
    for _ in range(STEPS):
        w, g, state = run.train_fn(state)
        ws.append(flat(w))
        gs.append(flat(g))
    return np.array([*ws, flat(state[0])]), np.array(gs)


def test_two_passes_measure_the_path(run, trace):
    ws, gs = walk(run)
    offsets, updates = ws[:-1] - ws[-1], np.diff(ws, axis=0)
    assert trace.replay_distance == 0 and trace.total == STEPS
    assert trace.dimension == 56 and trace["valid"].all()
    norms = np.linalg.norm(offsets, axis=1) * np.linalg.norm(gs, axis=1)
    inner = (gs * offsets).sum(1)
    np.testing.assert_allclose(trace["gamma"], inner / norms, atol=1e-6)
    excl = (inner + (gs * updates).sum(1)) / norms
    np.testing.assert_allclose(trace["gamma_excl"], excl, atol=1e-5)
    best = -(updates * offsets).sum(1) / (updates**2).sum(1)
    np.testing.assert_allclose(trace["update_lr"], best, rtol=1e-4)
    # The last update leads from w_{T-1} to the reference.
    assert trace["update_lr"][-1] == pytest.approx(1, abs=1e-5)
    # The identity of one step, at any rate.
    for eta in (0.01, 1.0):
        moved = np.linalg.norm(offsets - eta * gs, axis=1) ** 2
        factor = 1 - 2 * eta * trace["rsi"] + (eta * trace["eb"]) ** 2
        np.testing.assert_allclose(trace["distance"] ** 2 * factor, moved, rtol=2e-5)


def test_off_path_cosines(run, trace):
    ws, gs = walk(run)
    offsets = ws[:-1] - ws[-1]
    share = (gs * offsets).sum(1) / (offsets**2).sum(1)
    off = gs - share[:, None] * offsets
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    for lag in (1, 5):
        cosines = (off[lag:] * off[:-lag]).sum(1)
        np.testing.assert_allclose(trace[f"lag_{lag}"][lag:], cosines, atol=1e-5)
        assert np.isnan(trace[f"lag_{lag}"][:lag]).all()
    assert np.isnan(trace["lag_50"]).all()
    some = run.trace(lags=(6,), every=3)
    np.testing.assert_array_equal(some.steps, [0, 3, 6, 9])
    np.testing.assert_allclose(
        some["lag_6"][2:], [off[6] @ off[0], off[9] @ off[3]], atol=1e-5
    )


def test_gradients_are_computed_where_they_are_read(run, trace):
    before = run.gradients
    others = {"full": lambda state: run.grad(state[0], STEPS)}
    some = run.trace(every=4, advance=run.step, others=others)
    assert run.gradients - before == 3
    np.testing.assert_array_equal(some["gamma"], trace["gamma"][::4])
    assert np.isfinite(some["full_gamma"]).all()
    assert (some["full_gamma"] != some["gamma"]).any()
    odd = {"full": lambda state: None if int(state[2]) % 2 else others["full"](state)}
    found = run.trace(others=odd)["full_gamma"]
    np.testing.assert_array_equal(np.isnan(found), np.arange(STEPS) % 2 == 1)
    np.testing.assert_array_equal(found[::4], some["full_gamma"])


def test_checkpoints_give_the_same_points(run, trace):
    state, states = run.init(), []
    for step in range(STEPS):
        if step in (2, 7):
            states.append((step, jax.tree.map(jnp.copy, state)))
        state = run.step(state)
    found = checkpoint_path(
        run.train_fn, states, state[0], total=STEPS, params_of=lambda s: s[0]
    )
    np.testing.assert_array_equal(found.steps, [2, 7])
    assert np.isnan(found.replay_distance)
    for name in ("gamma", "update_lr", "distance"):
        np.testing.assert_array_equal(found[name], trace[name][[2, 7]])


def test_a_drifting_replay_raises():
    run = Run()
    passes = []

    def drifting(size):
        def init():
            params, *rest = run.init()
            passes.append(size)
            return {**params, "a": params["a"] + size * len(passes)}, *rest

        return init

    def attempt(size, **options):
        passes.clear()
        return two_pass(
            run.train_fn,
            drifting(size),
            steps=STEPS,
            params_of=lambda state: state[0],
            **options,
        )

    with pytest.raises(ReplayError, match="from the reference after 12 steps") as info:
        attempt(1e-3)
    assert 1e-4 < info.value.distance < 1
    assert f"{info.value.distance:.6g}" in str(info.value)
    with pytest.raises(ReplayError, match="allows for rounding"):
        attempt(1e-7)
    close = attempt(1e-7, check="allclose")
    assert 0 < close.replay_distance < 1e-4
    with pytest.raises(ReplayError):
        attempt(1e-3, check="allclose")
    with pytest.raises(ConfigError, match="did you mean 'bitwise'"):
        attempt(0, check="bitwis")
    with pytest.raises(ConfigError, match=r"lags \[5\] are no multiples of every=2"):
        attempt(0, lags=(5,), every=2)


@pytest.mark.parametrize(
    "jitted",
    [
        pytest.param(True, id="jit"),
        pytest.param(False, id="eager", marks=pytest.mark.slow),
    ],
)
def test_record_path_changes_no_bit(jitted, run, trace):
    end = run.params  # any reference
    chain = optax.chain(
        optax.clip_by_global_norm(0.5), record_path(optax.adam(0.05), end)
    )
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05))
    wrap = jax.jit if jitted else lambda f: f
    params = jax.tree.map(lambda x: x + 0.1, end)
    states = [tx.init(params) for tx in (plain, chain)]
    updates = [wrap(tx.update) for tx in (plain, chain)]
    for step in range(3):
        grads = run.grad(params, step)
        found = []
        for place, update in enumerate(updates):
            delta, states[place] = update(grads, states[place], params)
            found.append(delta)
        for a, b in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_array_equal(a, b)
        point = optax.tree.get(states[1], "point")
        expected = path_point(params, grads, end, updates=found[1])
        np.testing.assert_allclose(point.gamma, expected.gamma, rtol=1e-5)
        np.testing.assert_allclose(point.update_lr, expected.update_lr, rtol=1e-5)
        params = optax.apply_updates(params, found[1])
    first = jax.tree.leaves(states[0])
    inner = jax.tree.leaves((states[1][0], states[1][1].inner_state))
    for a, b in zip(first, inner, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="record_path measures"):
        chain.update(grads, states[1])


def test_record_path_agrees_with_two_passes(run, trace):
    """Recorded against the end of an earlier run: the same numbers, in a scan."""
    state = run.init()
    for _ in range(STEPS):
        state = run.step(state)
    tx = record_path(optax.adam(0.05), state[0])

    def step(carry, number):
        params, opt_state = carry
        grads = jax.grad(run.loss)(params, number)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), opt_state.point

    start = run.init()[0]
    _, points = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(STEPS))
    np.testing.assert_allclose(points.gamma, trace["gamma"], atol=1e-4)
    assert not tx.init(start).point.valid


def test_the_state_of_record_path_is_saved_and_goes_on(run, tmp_path):
    """Also in bfloat16: what is compared is wider than what is kept."""
    end = jax.tree.map(lambda x: x.astype(jnp.bfloat16), run.params)
    tx = record_path(optax.sgd(0.125), end)
    update = jax.jit(tx.update)
    params = jax.tree.map(lambda x: x + 1, end)
    _, state = update(end, tx.init(params), params)
    assert state.point.gamma.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state.reference)} == {jnp.bfloat16.dtype}
    exact = np.linalg.norm(flat(params) - flat(end))
    assert float(state.point.distance) == pytest.approx(exact, rel=1e-6)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state
    )
    restored = checkpoints.restore(1, like)
    checkpoints.close()
    assert digest(restored) == digest(state)
    assert digest(update(end, restored, params)) == digest(update(end, state, params))


def toy_trace(**columns):
    steps = np.arange(0, 100, 2)
    values = {"valid": np.ones(50), "gamma": np.where(steps < 30, -1.0, 0.5)}
    return PathTrace(steps, 100, 4, values | columns, 0.0)


def test_a_trace_marks_its_tail_and_knows_its_nulls():
    trace = toy_trace(gamma_excl=np.zeros(50))
    np.testing.assert_array_equal(trace.steps[trace.tail()], [98])
    np.testing.assert_array_equal(trace.steps[trace.tail(0.1)], [90, 92, 94, 96, 98])
    assert trace.share_positive() == pytest.approx(34 / 49)
    nulls = trace.nulls()
    assert (nulls["random_direction"] == 0.5).all()
    assert nulls["random_walk"][0] == 0.1
    assert nulls["random_walk"][-1] == pytest.approx(2**-0.5)
    np.testing.assert_array_equal(nulls["self"], trace["gamma"])
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        trace["gama"]


def test_smoothing_is_an_unbiased_average_cut_at_zero():
    rates = np.where(np.arange(50) < 25, 2.0, -1.0)
    trace = toy_trace(local_lr=rates)
    steps, values = trace.smoothed(0.5)
    assert steps[-1] == 96
    np.testing.assert_allclose(values[:25], 2.0)
    assert values[-1] == 0
    # 2 steps from point to point: what is old keeps a quarter of its weight of 2/3.
    _, ramp = toy_trace(local_lr=np.where(rates > 0, 2.0, 1.0)).smoothed(0.5)
    assert ramp[25] == pytest.approx((2 / 6 + 0.5) / (1 / 6 + 0.5))
    schedule = jax.jit(trace.schedule(0.0))
    assert [float(schedule(s)) for s in (0, 48, 49, 50, 99)] == [2, 2, 1, 0, 0]
    with pytest.raises(ConfigError, match=r"lies in \[0, 1\)"):
        trace.schedule(1.0)
    with pytest.raises(ConfigError, match="no reported point"):
        trace.schedule(tail=1.0)


def test_files_keep_every_bit(trace, tmp_path):
    path = tmp_path / "paths.csv"
    trace.save(path)
    again = PathTrace.load(path)
    assert again.total == trace.total and again.dimension == trace.dimension
    assert again.replay_distance == 0
    for name, column in trace.columns.items():
        np.testing.assert_array_equal(again.columns[name], column, err_msg=name)
    np.testing.assert_array_equal(again.steps, trace.steps)
    with pytest.raises(ConfigError, match="not a readable path trace"):
        PathTrace.load(tmp_path / "none.csv")


def test_a_schedule_goes_through_a_file_into_a_config(tmp_path):
    rates = 1 + np.sin(np.arange(50) / 5.0)
    trace = toy_trace(update_lr=rates)
    path = tmp_path / "schedule.csv"
    trace.save_schedule(path, 0.3, factor=lambda step: 1 - step / 200)
    fractions, values = read_table(path)
    steps, smooth = toy_trace(update_lr=rates * (1 - trace.steps / 200)).smoothed(
        0.3, of="update_lr"
    )
    np.testing.assert_allclose(fractions, steps / 100)
    np.testing.assert_allclose(values, smooth, rtol=1e-6)
    table = {"name": "table", "path": str(path)}
    factor = schedule_from_config({"steps": 100, "schedule": table})
    np.testing.assert_allclose(jax.vmap(factor)(steps), smooth, rtol=1e-5)
    # Of a run of another length: the same at the same fraction of it.
    longer = schedule_from_config({"steps": 300, "schedule": table})
    np.testing.assert_allclose(jax.vmap(longer)(3 * steps), smooth, rtol=1e-4)


def test_the_figure(trace, tmp_path):
    pytest.importorskip("matplotlib")
    from jopt.landscape.paths import draw

    draw(trace, tmp_path / "paths.svg", title="toy")
    assert "random walk" in (tmp_path / "paths.svg").read_text()
