"""Cautious decay, floor, hyperball and brake against their formulas in NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec

STEPS = 20
ALL = slice(None)
# Shape, view, and the index of each matrix; its first axis is then the fan-in.
LEAVES = {
    "matrix": ((5, 7), MatrixSpec((0,), (1,)), [()]),
    "stack": ((2, 5, 7), MatrixSpec((1,), (2,)), [(0,), (1,)]),
    "joint": ((5, 2, 3), MatrixSpec((0,), (1, 2)), [()]),
    "heads": ((5, 2, 3), MatrixSpec((0,), (2,)), [(ALL, 0), (ALL, 1)]),
    "fused": (
        (5, 8),
        MatrixSpec((0,), (1,), split=(4, 2, 2)),
        [(ALL, slice(4)), (ALL, slice(4, 6)), (ALL, slice(6, 8))],
    ),
    "vector": ((6,), None, [(None,)]),
}
SPECS = {name: spec for name, (_, spec, _) in LEAVES.items()}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: scale * rng.normal(size=shape).astype(np.float32)
        for name, (shape, *_) in LEAVES.items()
    }


def directions(start):
    """Of several sizes, and as often outward as not."""
    noise = [draw(seed, 0.1 * 2.0 ** (seed % 5)) for seed in range(1, STEPS + 1)]
    return [
        {name: u + (-1) ** t * 0.3 * start[name] for name, u in tree.items()}
        for t, tree in enumerate(noise)
    ]


def norm(x, axis=None):
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True))


def plus_cautious_decay(w, u, radius):
    return w - 0.1 * (u + 0.3 * np.where(u * w >= 0, w, 0.0))


def plus_floor(w, u, radius):
    return w - 0.05 * u * np.maximum(1.0, 0.9 * norm(w) / norm(u))


def plus_floor_per_output(w, u, radius):
    return w - 0.05 * u * np.maximum(1.0, 0.9 * norm(w, 0) / norm(u, 0))


def plus_hyperball(w, u, radius):
    w = w - 0.2 * radius * u / norm(u)
    return radius * w / norm(w)


def plus_brake(w, u, radius):
    new = w + 0.2 * u
    growth = norm(new) - norm(w)
    return new * (norm(w) + (0.4 if growth > 0 else 1.0) * growth) / norm(new)


WHERE = {"matrix_specs": SPECS}
RULES = {
    "cautious": (
        plus_cautious_decay,
        optax.chain(jopt.cautious_weight_decay(0.3), optax.scale(-0.1)),
    ),
    "floor": (
        plus_floor,
        optax.chain(jopt.update_floor(0.9, **WHERE), optax.scale(-0.05)),
    ),
    "floor_per_output": (
        plus_floor_per_output,
        optax.chain(
            jopt.update_floor(0.9, per_output=True, **WHERE), optax.scale(-0.05)
        ),
    ),
    "hyperball": (plus_hyperball, jopt.hyperball(0.2, **WHERE)),
    "brake": (
        plus_brake,
        optax.chain(optax.scale(0.2), jopt.radial_brake(0.4, **WHERE)),
    ),
}


def run(tx, start, updates):
    """The weights after each of many steps, in one program."""

    def step(carry, u):
        w, state = carry
        moves, state = tx.update(u, state, w)
        w = optax.apply_updates(w, moves)
        return (w, state), w

    stacked = jax.tree.map(lambda *x: np.stack(x), *updates)
    start = jax.tree.map(jnp.asarray, start)
    return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), stacked)[1])()


@pytest.mark.parametrize("name", RULES)
def test_twenty_steps_are_those_of_the_formula(name):
    reference, tx = RULES[name]
    start = draw(0)
    updates = directions(start)
    found = run(tx, start, updates)
    for leaf, (_, _, matrices) in LEAVES.items():
        w = start[leaf].astype(np.float64)
        for index in matrices:
            radius = norm(w[index])
            for u in updates:
                if leaf == "vector":
                    w = reference(w[None], u[leaf][None], radius)[0]
                else:
                    w[index] = reference(w[index], u[leaf][index], radius)
        np.testing.assert_allclose(found[leaf][-1], w, atol=2e-6, err_msg=leaf)


def test_hyperball_keeps_every_norm_for_a_thousand_steps():
    """P14, through the seam of an optimizer; the norms are taken in float64."""
    specs = {"w": SPECS["matrix"], "stack": SPECS["stack"]}
    start = {"w": draw(0)["matrix"], "stack": draw(0)["stack"]}
    updates = [
        {k: draw(t)[n] for k, n in (("w", "matrix"), ("stack", "stack"))}
        for t in range(50)
    ] * 20
    for dtype, bound in ((jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)):
        tx = jopt.signum(0.03, control={"hyperball": True}, matrix_specs=specs)
        first = jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), start)
        found = run(
            tx,
            first,
            [jax.tree.map(lambda x, d=dtype: x.astype(d), u) for u in updates],
        )
        for path, before in first.items():
            axes = (-2, -1)
            wanted = np.linalg.norm(np.asarray(before, np.float64), axis=axes)
            norms = np.linalg.norm(np.asarray(found[path], np.float64), axis=axes)
            assert len(norms) == 1000
            gap = np.abs(norms / wanted - 1).max()
            assert gap <= bound, (path, dtype, gap)
        moved = np.abs(np.asarray(found["w"][-1] - first["w"], np.float32)).max()
        assert moved > 0.1


def test_a_matrix_that_starts_at_zero_grows_to_its_sphere_and_stays():
    stack = {"w": np.zeros((2, 4, 9), np.float32)}
    updates = [
        {"w": np.stack([x["w"], 0 * x["w"]])}
        for x in (
            {"w": np.random.default_rng(t).normal(size=(4, 9)) + 1.0} for t in range(60)
        )
    ]
    updates = jax.tree.map(np.float32, updates)
    tx = jopt.hyperball(0.1, matrix_specs={"w": MatrixSpec((1,), (2,))})
    found = np.asarray(run(tx, stack, updates)["w"], np.float64)
    norms = np.linalg.norm(found[:, 0], axis=(1, 2))
    assert norms[0] == pytest.approx(0.1 * 3, rel=1e-6)  # 0.1 R, with R = sqrt(9)
    reached = int(np.argmax(norms > 2.97))
    assert 5 < reached < 40
    assert np.all(np.diff(norms[: reached + 1]) > 0)
    np.testing.assert_allclose(norms[reached + 1 :], 3.0, rtol=1e-6)
    assert not found[:, 1].any()  # No gradient, no step.


def test_hyperball_after_a_step_that_lands_on_zero():
    w = {"w": jnp.array([[3.0, 4.0]])}
    tx = jopt.hyperball(1.0)
    state = tx.init(w)
    step, _ = tx.update(w, state, w)
    zero = optax.apply_updates(w, step)
    assert not zero["w"].any()
    step, _ = tx.update(w, state, zero)
    np.testing.assert_allclose(step["w"], [[-3.0, -4.0]], rtol=1e-6)


def parts(w, u, cautious):
    """The update and decay parts of one step, and the step itself."""
    control = {"cautious": True} if cautious else None

    def step(decay):
        tx = jopt.optimizers.descend(
            optax.identity(), learning_rate=0.5, weight_decay=decay, control=control
        )
        return np.asarray(tx.update(u, tx.init(w), w)[0])

    plain = step(0.0)
    return plain, step(0.25) - plain, step(0.25)


def test_cautious_decay_never_opposes_the_update():
    """P15: quarters make every sum exact."""
    rng = np.random.default_rng(0)
    w, u = (jnp.asarray(rng.integers(-9, 9, (20, 20)) / 4, jnp.float32) for _ in "wu")
    update, decay, _ = parts(w, u, cautious=True)
    assert np.all(update * decay >= 0)
    everywhere = np.asarray(w * u >= 0)
    _, plain, _ = parts(w, u, cautious=False)
    np.testing.assert_array_equal(decay, np.where(everywhere, plain, 0))
    assert 0.2 < np.mean(everywhere) < 0.8
    agree = jnp.abs(u) * jnp.sign(w)
    for left, right in zip(parts(w, agree, True), parts(w, agree, False), strict=True):
        np.testing.assert_array_equal(left, right)
    against = -(jnp.abs(u) + 1) * jnp.sign(w)
    update, _, step = parts(w, against, cautious=True)
    np.testing.assert_array_equal(step, update)


def test_cautious_decay_of_what_underflows_by_schedule_and_mask():
    w, u = jnp.float32([1e-30, 1e-30]), jnp.float32([-1e-30, 1e-30])
    tx = jopt.cautious_weight_decay(lambda step: jnp.where(step == 0, 1.0, 0.0))
    first, state = tx.update(u, tx.init(w), w)
    np.testing.assert_allclose(first, [-1e-30, 2e-30], rtol=1e-6)
    np.testing.assert_array_equal(tx.update(u, state, w)[0], u)
    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    tx = jopt.cautious_weight_decay(0.5, {"a": True, "b": False})
    found, _ = tx.update(tree, tx.init(tree), tree)
    assert (found["a"], found["b"]) == (1.5, 1.0)


NORMED = {
    "floor": jopt.update_floor(2.0, matrix_specs={"w": SPECS["stack"]}),
    "hyperball": jopt.hyperball(0.1, matrix_specs={"w": SPECS["stack"]}),
    "brake": jopt.radial_brake(0.5, matrix_specs={"w": SPECS["stack"]}),
}


@pytest.mark.parametrize("name", NORMED)
def test_broken_zero_and_extreme_slices_are_alone(name):
    tx = NORMED[name]
    w = {"w": jnp.asarray(draw(0)["stack"])}
    u = jnp.asarray(draw(1)["stack"])

    def update(u, w=w):
        return np.asarray(tx.update({"w": u}, tx.init(w), w)[0]["w"])

    expected = update(u)
    broken = update(u.at[1, 0, 0].set(jnp.nan))
    np.testing.assert_array_equal(broken[0], expected[0])
    assert np.isnan(broken[1]).any()
    still = update(u.at[1].set(0.0))
    np.testing.assert_array_equal(still[0], expected[0])
    assert not still[1].any()
    # Relative to the weight, nothing depends on the scale.
    for scale in (1e-30, 1e30):
        scaled = update(scale * u, {"w": scale * w["w"]})
        np.testing.assert_allclose(scaled / np.float32(scale), expected, atol=1e-6)
    zero = update(u, {"w": 0 * w["w"]})
    factor = {"floor": 1.0, "brake": 0.5}.get(name)
    if factor is not None:
        np.testing.assert_allclose(zero, factor * u, rtol=1e-6)
    assert np.isfinite(zero).all()


def test_a_tiny_step_is_braked_by_the_same_part():
    """The growth of 1e-6 of a norm survives float32."""
    w = {"w": jnp.asarray(draw(0)["matrix"])}
    tx = jopt.radial_brake(0.25)
    for size in (1e-2, 1e-4, 1e-6):
        step = {"w": size * w["w"]}
        found, _ = tx.update(step, tx.init(w), w)
        np.testing.assert_allclose(found["w"], 0.25 * step["w"], rtol=1e-5)


def test_floor_of_tiny_updates_is_exact_and_leaves_large_ones():
    w = {"w": jnp.asarray(draw(0)["matrix"])}
    u = jnp.asarray(draw(1)["matrix"])
    tx = jopt.update_floor(0.5)
    expected = 0.5 * norm(np.float64(w["w"])) * np.float64(u) / norm(np.float64(u))
    for scale, size in ((1e-30, 1e10), (1e-10, 1.0)):
        large = {"w": size * w["w"]}
        found, _ = tx.update({"w": scale * u}, tx.init(large), large)
        np.testing.assert_allclose(found["w"] / size, expected, rtol=1e-6)
    large, _ = tx.update({"w": 1e30 * u}, tx.init(w), w)
    np.testing.assert_array_equal(large["w"], 1e30 * u)


@pytest.mark.parametrize(
    "tx", [jopt.update_floor(0.5), jopt.hyperball(0.1), jopt.radial_brake()]
)
def test_what_has_to_be_said_is_asked_for(tx):
    with pytest.raises(ShapeError, match=r"which matrices.*w \(2, 3, 4\)"):
        tx.init({"w": jnp.ones((2, 3, 4)), "b": jnp.ones(3)})
    ones = {"w": jnp.ones((2, 2))}
    with pytest.raises(ConfigError, match="needs weights"):
        tx.update(ones, tx.init(ones))


def test_cautious_decay_asks_for_weights():
    tx = jopt.cautious_weight_decay(0.1)
    with pytest.raises(ConfigError, match="needs weights"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.slow
@pytest.mark.devices
def test_norms_are_global_inside_shard_map(on_devices):
    script = Path(__file__).with_name("control_worker.py")
    printed = on_devices(4, script, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    found = json.loads(printed)
    assert set(found) == {"floor", "floor_per_output", "hyperball", "brake"}
    # The order of sums differs.
    assert max(found.values()) <= 1e-5, found
