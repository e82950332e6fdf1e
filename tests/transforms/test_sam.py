"""The SAM family: closed forms, identities, edges, and what is not computed."""

from __future__ import annotations

import contextlib
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError, JoptWarning, ShapeError
from jopt.transforms import check_sharpness

H = np.array([[5.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.3]])
W = np.array([1.0, -0.5, 2.0])
DTYPES = ("float32", "float64")


def quadratic(w, h=None):
    h = jnp.asarray(H if h is None else h, w.dtype)
    return w @ h @ w / 2


def wide(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def tol(dtype, in_float32=3e-6):
    return {"rtol": 1e-12 if dtype == "float64" else in_float32}


def gradient(loss, w, *args, **options):
    oracle = jopt.sam_value_and_grad(loss, **options)
    return jax.jit(oracle.apply)(oracle.init(w), w, *args)[1]


def descend(oracle, w, eta, steps, *args):
    """Iterates of plain SGD on an oracle's gradients, w_0 included."""

    def step(carry, _):
        w, state = carry
        _, grads, state, metrics = oracle.apply(state, w, *args)
        return (w - eta * grads, state), (w, metrics)

    (last, _), (path, metrics) = jax.lax.scan(
        step, (w, oracle.init(w)), None, length=steps
    )
    return jnp.concatenate([path, last[None]]), metrics


@pytest.mark.parametrize("dtype", DTYPES)
def test_property_1_gradient_of_a_quadratic(dtype):
    g = H @ W
    with wide(dtype):
        found = gradient(quadratic, jnp.asarray(W, dtype), ascent=jopt.l2_ascent(0.3))
        assert found.dtype == dtype
        wanted = g + 0.3 * H @ g / np.linalg.norm(g)
        np.testing.assert_allclose(found, wanted, **tol(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_property_2_two_cycle_along_the_top_eigenvector(dtype):
    values, vectors = np.linalg.eigh(H)
    eta, rho, top = 0.25, 0.1, values[-1]
    with wide(dtype):
        oracle = jopt.sam_value_and_grad(quadratic, jopt.l2_ascent(rho))
        path, _ = jax.jit(partial(descend, oracle, eta=eta, steps=900))(
            jnp.asarray(W, dtype)
        )
        last = np.asarray(path[-2:], float) @ vectors
    wanted = eta * rho * top / (2 - eta * top)
    small = 1e-9 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(np.abs(last[:, 2]), wanted, **tol(dtype, 2e-6))
    assert last[0, 2] * last[1, 2] < 0
    assert np.abs(last[:, :2]).max() < small


def test_property_3_first_order():
    with wide("float64"):
        w, g = jnp.asarray(W), H @ W
        size = np.linalg.norm(g)
        for rho in (1e-4, 1e-6):
            ge = gradient(quadratic, w, ascent=jopt.l2_ascent(rho))
            gap = quadratic(w + rho * g / size) - quadratic(w)
            np.testing.assert_allclose(gap / rho, size, 1e2 * rho)
            np.testing.assert_allclose((ge - g) / rho, H @ g / size, 1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_property_4_radius_zero_is_the_base(dtype):
    with wide(dtype):
        w = jnp.asarray(W, dtype)
        oracle = jopt.sam_value_and_grad(quadratic, jopt.l2_ascent(0.0))
        path, metrics = descend(oracle, w, 0.1, 20)
        plain = [w]
        for _ in range(20):
            plain.append(plain[-1] - 0.1 * jax.grad(quadratic)(plain[-1]))
        np.testing.assert_allclose(path, jnp.stack(plain), **tol(dtype, 2e-6))
        assert float(metrics["perturbation_ratio"].max()) == 1.0


def test_property_5_edge_of_stability_is_where_the_two_cycle_is():
    """At the SAM edge, the gradient norm of a 2-cycle reproduces its curvature."""
    eta, rho = 0.3, 0.05
    for top in (1.0, 3.0, 6.0):
        with wide("float64"):
            oracle = jopt.sam_value_and_grad(
                lambda w, top=top: top * jnp.sum(w**2) / 2, jopt.l2_ascent(rho)
            )
            _, metrics = descend(oracle, jnp.array([1.0]), eta, 400)
        size = float(metrics["grad_norm"][-1])
        edge = size / (2 * rho) * (np.sqrt(1 + 8 * rho / (eta * size)) - 1)
        # metrics are float32
        assert edge == pytest.approx(top, rel=1e-6) and edge <= 2 / eta


def fit(w, x, y):
    hidden = jnp.tanh(x @ w["a"] + w["b"])
    return jnp.mean((hidden @ w["c"] - y) ** 2)


def problem(dtype, rows=8, seed=0):
    rng = np.random.default_rng(seed)
    w = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=4), "c": rng.normal(size=4)}
    x, y = rng.normal(size=(rows, 3)), rng.normal(size=rows)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (w, x, y))


def assert_close(found, wanted, **tolerance):
    jax.tree.map(
        lambda f, w: np.testing.assert_allclose(f, w, atol=1e-7, **tolerance),
        found,
        wanted,
    )


SAME_AS_SAM = {
    "gsam": {"combine": jopt.gsam(0.0)},
    "wsam": {"combine": jopt.wsam(0.5, decoupled=False)},
    "looksam": {"combine": jopt.looksam(1)},
    "looksam traced": {"combine": jopt.looksam(jnp.int32(1))},
    "ae_sam": {"combine": jopt.ae_sam(-jnp.inf)},
    "f_sam": {"direction": jopt.f_sam_direction(0.0)},
    "f_sam, first step": {"direction": jopt.f_sam_direction()},
    "one group": {"group_size": 8, "batch_argnums": (1, 2)},
}
SAME_AS_BASE = {
    "wsam": {"combine": jopt.wsam(0.0, decoupled=False)},
    "ae_sam": {"combine": jopt.ae_sam(jnp.inf)},
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_that_are_sam_or_the_base(dtype):
    rule = jopt.l2_ascent(0.1)

    @jax.jit
    def gradients(w, x, y):
        def all_of(members):
            return {n: gradient(fit, w, x, y, ascent=rule, **o) for n, o in members}

        sam = gradient(fit, w, x, y, ascent=rule)
        same, base = all_of(SAME_AS_SAM.items()), all_of(SAME_AS_BASE.items())
        return sam, jax.grad(fit)(w, x, y), same, base

    with wide(dtype):
        sam, plain, same, base = gradients(*problem(dtype))
        assert float(jnp.abs(sam["a"] - plain["a"]).max()) > 1e-2
        for found in same.values():
            assert_close(found, sam, **tol(dtype, 1e-5))
        for found in base.values():
            assert_close(found, plain, **tol(dtype, 1e-5))


def model(w, x, y):
    return jnp.tanh(x @ w["a"] + w["b"]) @ w["c"]


def squares(z, x, y):
    return jnp.mean((z - y) ** 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_functional_sam(dtype):
    """J(w + epsilon)^T c, and the clean gradient exactly where the model is linear."""
    with wide(dtype):
        w, x, y = problem(dtype)
        oracle = jopt.functional_sam_value_and_grad(model, squares, jopt.l2_ascent(0.2))
        (value, _), found, _, _ = oracle.apply(oracle.init(w), w, x, y)
        np.testing.assert_allclose(value, fit(w, x, y), **tol(dtype))
        g = jax.grad(fit)(w, x, y)
        size = jnp.sqrt(sum(jnp.sum(v**2) for v in jax.tree.leaves(g)))
        moved = jax.tree.map(lambda p, v: p + 0.2 * v / size, w, g)
        c = jax.grad(squares)(model(w, x, y), x, y)
        wanted = jax.vjp(lambda p: model(p, x, y), moved)[1](c)[0]
        assert_close(found, wanted, **tol(dtype, 2e-5))
        linear = jopt.functional_sam_value_and_grad(
            lambda w, x, y: x @ w["a"] @ jnp.ones(4, dtype), squares
        )
        own = {"a": w["a"]}
        found = linear.apply(linear.init(own), own, x, y)[1]
        wanted = jax.grad(lambda w: squares(x @ w["a"] @ jnp.ones(4, dtype), x, y))(own)
        np.testing.assert_array_equal(found["a"], wanted["a"])


def reference(name, steps, eta, w, x, y):
    """Slow NumPy twins, from the formulas; gradients by finite formulas of a quadratic.

    The loss is mean_i (x_i . w - y_i)^2 / 2, whose gradient is X^T (X w - y) / N.
    """

    def grad(v, rows=slice(None)):
        return x[rows].T @ (x[rows] @ v - y[rows]) / len(y[rows])

    def losses(v):
        return (x @ v - y) ** 2 / 2

    m = v = mu = None
    var, path, rho = 0.0, [w], 0.1
    for t in range(steps):
        g = grad(w)
        size = np.linalg.norm(g)
        if name == "stale":
            d = np.zeros_like(g) if m is None else m
            length = np.linalg.norm(d)
            u = grad(w + (rho * d / length if length else 0))
            m = u
        elif name == "looksam" and t % 3:
            u = g + 0.7 * size / np.linalg.norm(v) * v
        else:
            d = g
            if name == "f_sam":
                d = g if m is None else g - m
                m = g if m is None else 0.9 * m + 0.1 * g
            if name == "f_sam_first":
                m = 0.1 * g if m is None else 0.9 * m + 0.1 * g
                d = g - m
            if name == "gsam":
                rho = 0.02 + 0.08 * (1 - t / steps)
            moved = w + rho * d / np.linalg.norm(d)
            ge = u = grad(moved)
            if name == "gsam":
                along = ge / np.linalg.norm(ge)
                u = ge - 0.4 * (g - (g @ along) * along)
            if name == "wsam":
                u = g + 9.0 * (ge - g)
            if name == "looksam":
                v = ge - (ge @ g) / size**2 * g
            if name == "esam":
                rise = losses(moved) - losses(w)
                u = grad(moved, np.argsort(rise)[len(y) // 2 :])
            if name == "ae_sam":
                mu = size**2 if mu is None else 0.9 * mu + 0.1 * size**2
                var = 0.9 * var + 0.1 * (size**2 - mu) ** 2
                u = ge if size**2 >= mu + (1 - 2 * t / steps) * var**0.5 else g
        w = w - eta * u
        path.append(w)
    return np.stack(path)


STEPS = 9
MEMBERS = {
    "sam": {},
    "gsam": {
        "combine": jopt.gsam(),
        "ascent": jopt.l2_ascent(
            jopt.radius_schedule(optax.linear_schedule(1.0, 0.0, STEPS), 0.1, 0.02, 1.0)
        ),
    },
    "wsam": {"combine": jopt.wsam(decoupled=False)},
    "looksam": {"combine": jopt.looksam(3)},
    "ae_sam": {"combine": jopt.ae_sam(optax.linear_schedule(1.0, -1.0, STEPS))},
    "f_sam": {"direction": jopt.f_sam_direction()},
    "f_sam_first": {"direction": jopt.f_sam_direction(update_first=True)},
    "esam": {},
    "stale": {},
}


def least_squares(w, x, y):
    return jnp.mean((x @ w - y) ** 2) / 2


def member_oracle(name, **more):
    options = {"ascent": jopt.l2_ascent(0.1)} | MEMBERS[name] | more
    if name == "esam":
        return jopt.esam_value_and_grad(
            lambda w, x, y: (x @ w - y) ** 2 / 2,
            beta=1.0,
            batch_argnums=(1, 2),
            **options,
        )
    if name == "stale":
        return jopt.stale_sam_value_and_grad(least_squares, **options)
    return jopt.sam_value_and_grad(least_squares, **options)


@pytest.mark.parametrize("name", MEMBERS)
def test_members_against_numpy(name):
    rng = np.random.default_rng(3)
    x, y, w = rng.normal(size=(8, 3)), rng.normal(size=8), rng.normal(size=3)
    with wide("float64"):
        oracle = member_oracle(name)
        path, _ = descend(oracle, jnp.asarray(w), 0.3, STEPS, x, y)
    wanted = reference(name, STEPS, 0.3, w, x, y)
    # What is remembered, and a schedule of Optax, are float32.
    exact = name in ("sam", "wsam", "ae_sam", "esam")
    np.testing.assert_allclose(path, wanted, rtol=0, atol=1e-12 if exact else 1e-6)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_looksam_remembers_nothing_of_parallel_gradients(size):
    """What rounding leaves of v, 1e-7 of g^e, would be scaled up to the size of g."""
    rule = jopt.looksam(2)
    g = jnp.asarray(size * np.random.default_rng(0).normal(size=64), jnp.float32)
    state = rule.both(g, 1.1 * g, rule.init(g)).state
    np.testing.assert_array_equal(rule.alone(g, state), g)
    bent = rule.both(g, 1.1 * g + 1e-4 * size, rule.init(g)).state
    assert np.linalg.norm((rule.alone(g, bent) - g) / size) > 0.5 * np.linalg.norm(
        g / size
    )


@pytest.mark.parametrize("name", ["looksam", "ae_sam", "f_sam", "stale"])
def test_scan_loop_and_jit_agree_also_after_a_restart(name):
    rng = np.random.default_rng(3)
    x, y = (jnp.asarray(rng.normal(size=s), "float32") for s in ((8, 3), (8,)))
    w = jnp.asarray(W, jnp.float32)
    oracle = member_oracle(name)
    path, _ = descend(oracle, w, 0.3, 6, x, y)
    apply = jax.jit(oracle.apply)
    state, loop = oracle.init(w), [w]
    for step in range(6):
        if step == 3:  # through the host, as a checkpoint goes
            state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)
        _, grads, state, _ = apply(state, loop[-1], x, y)
        loop.append(loop[-1] - 0.3 * grads)
    np.testing.assert_allclose(path, jnp.stack(loop), rtol=1e-5, atol=1e-6)


def counted(loss, calls):
    """`loss`, which notes each time that it is run, not traced."""

    @jax.custom_vjp
    def noted(w):
        return loss(w)

    def forward(w):
        jax.debug.callback(lambda: calls.append(1))
        return jax.vjp(loss, w)

    noted.defvjp(forward, lambda back, ct: back(ct))
    return noted


@pytest.mark.parametrize(
    ("combine", "wanted"),
    [
        (jopt.perturbed(), [2, 2, 2, 2]),
        (jopt.looksam(3), [2, 1, 1, 2]),
        (jopt.ae_sam(jnp.inf), [1, 1, 1, 1]),
    ],
    ids=["sam", "looksam", "ae_sam"],
)
def test_gradients_at_run_time(combine, wanted):
    calls = []
    loss = counted(lambda w: quadratic(w), calls)
    oracle = jopt.sam_value_and_grad(loss, combine=combine)
    w = jnp.asarray(W, jnp.float32)
    state, apply, found = oracle.init(w), jax.jit(oracle.apply), []
    for _ in wanted:
        calls.clear()
        _, _, state, metrics = jax.block_until_ready(apply(state, w))
        jax.effects_barrier()
        found.append(len(calls))
        assert float(metrics["second_gradient"]) == len(calls) - 1
    assert found == wanted


def test_groups_are_the_mean_of_sam_on_each():
    """Property 7, with stateful members: their memory is that of the mean."""
    options = {"ascent": jopt.l2_ascent(0.1)}
    batch = {"batch_argnums": (1, 2), "group_size": 2}

    @jax.jit
    def gradients(w, x, y):
        def of(oracle, x, y):
            return oracle.apply(oracle.init(w), w, x, y)

        single = jopt.sam_value_and_grad(fit, **options)
        each = [of(single, x[i : i + 2], y[i : i + 2])[1] for i in range(0, 8, 2)]
        wanted = jax.tree.map(lambda *g: sum(g) / 4, *each)
        grouped = of(jopt.sam_value_and_grad(fit, **options, **batch), x, y)[1]
        remembering = jopt.sam_value_and_grad(
            fit, combine=jopt.looksam(2), direction=jopt.f_sam_direction(), **batch
        )
        state = of(remembering, x, y)[2]
        return grouped, wanted, state.direction_state.ema, jax.grad(fit)(w, x, y)

    with wide("float64"):
        found, wanted, memory, mean = gradients(*problem("float64"))
        assert_close(found, wanted, rtol=1e-12)
        assert_close(memory, mean, rtol=1e-6)  # kept in float32
    with pytest.raises(ShapeError, match="does not divide the 8"):
        gradient(fit, *problem("float32"), group_size=3, batch_argnums=(1, 2))


def test_skipping_inside_groups_is_real():
    calls = []
    loss = counted(lambda w: jnp.sum(w**2), calls)
    oracle = jopt.sam_value_and_grad(
        lambda w, x: loss(w * x[0]), combine=jopt.looksam(2), group_size=1
    )
    w, x, seen = jnp.ones(2), jnp.ones((3, 2)), []
    state, apply = oracle.init(w), jax.jit(oracle.apply)
    for _ in range(2):
        calls.clear()
        _, _, state, _ = jax.block_until_ready(apply(state, w, x))
        jax.effects_barrier()
        seen.append(len(calls))
    assert seen == [2, 1]  # each for all groups at once


@pytest.mark.parametrize("fallback", ["clean", "pass", "raise"])
def test_second_gradient_that_is_not_finite(fallback):
    """The loss is fine at w and is no number a little above it."""

    def loss(w):
        return -jnp.sum(jnp.sqrt(1 - w))

    w = jnp.array([0.99, 0.5])
    clean = jax.grad(loss)(w)
    oracle = jopt.sam_value_and_grad(
        loss, fallback=fallback, combine=jopt.looksam(2, alpha=1.0)
    )
    state = oracle.init(w)
    _, grads, after, metrics = jax.jit(oracle.apply)(state, w)
    assert float(metrics["fallbacks"]) == 1
    assert float(metrics["perturbation_ratio"]) == 1.0  # as before: nothing was found
    if fallback == "clean":
        np.testing.assert_allclose(grads, clean, 1e-6)
        assert not after.combine_state.sharpness.any()
        # No memory yet: the next step is the clean one.
        np.testing.assert_allclose(oracle.apply(after, w)[1], clean, 1e-6)
        check_sharpness(metrics)
    elif fallback == "pass":
        assert np.isnan(grads).tolist() == [True, False]
    else:
        assert np.isnan(grads).all()
        with pytest.raises(FloatingPointError, match="1 gradient at perturbed"):
            check_sharpness(metrics, fallback="raise")
        with pytest.raises(FloatingPointError, match="lower rho"):
            oracle.apply(state, w)


@pytest.mark.parametrize("name", [*MEMBERS, "functional"])
def test_zero_gradient_is_no_nan(name):
    x, y, w = jnp.ones((4, 3)), jnp.zeros(4), jnp.zeros(3)
    if name == "functional":
        oracle = jopt.functional_sam_value_and_grad(
            lambda w, x, y: x @ w, lambda z, x, y: jnp.sum(z**2)
        )
    else:
        oracle = member_oracle(name)
    state, apply = oracle.init(w), jax.jit(oracle.apply)
    for _ in range(2):
        _, grads, state, _ = apply(state, w, x, y)
        assert not grads.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_scale_of_the_loss_does_not_matter():
    members = ({}, {"combine": jopt.gsam()}, {"combine": jopt.looksam(2)})

    @jax.jit
    def gradients(scale):
        def scaled(*args):
            return fit(*args) * scale

        found = [gradient(scaled, *problem("float32"), **m) for m in members]
        return jax.tree.map(lambda g: g / scale, found)

    plain = gradients(1.0)
    for scale in (1e-30, 1e30):
        assert_close(gradients(scale), plain, rtol=1e-4)


def test_integer_and_missing_leaves_aux_and_keywords():
    w = {"a": jnp.array([1.0, 2.0]), "n": jnp.array(3), "none": None}

    def loss(w, *, factor):
        return factor * jnp.sum(w["a"] ** 2), {"n": w["n"]}

    oracle = jopt.sam_value_and_grad(
        loss, has_aux=True, direction=jopt.f_sam_direction()
    )
    (value, aux), grads, _, metrics = oracle.apply(oracle.init(w), w, factor=2.0)
    assert (float(value), int(aux["n"])) == (10.0, 3)
    assert grads["n"].dtype == jax.dtypes.float0 and grads["none"] is None
    np.testing.assert_allclose(grads["a"], 4 * w["a"] * (1 + 0.05 / 5**0.5), rtol=1e-6)
    assert float(metrics["cosine"]) == pytest.approx(1.0)
    assert float(metrics["rho"]) == pytest.approx(0.05)


def test_model_state_of_the_clean_pass_and_keys():
    """aux is that of w; both passes have one key, or two if asked for."""

    def loss(w, key):
        noise = jax.random.normal(key, w.shape)
        return jnp.sum(w * noise), (w, noise)

    w, key = jnp.ones(3), jax.random.key(0)
    oracle = jopt.sam_value_and_grad(loss, has_aux=True)
    (_, (seen, noise)), grads, _, _ = oracle.apply(oracle.init(w), w, key)
    np.testing.assert_array_equal(seen, w)
    np.testing.assert_array_equal(grads, noise)
    other = jopt.sam_value_and_grad(loss, has_aux=True, reuse_rng=False)
    grads = other.apply(other.init(w), w, key)[1]
    wanted = jax.random.normal(jax.random.fold_in(key, 1), (3,))
    np.testing.assert_array_equal(grads, wanted)
    with pytest.raises(ConfigError, match="typed key"):
        other.apply(other.init(w), w, jax.random.PRNGKey(0))


def test_bfloat16_perturbs_unless_told_not_to():
    w = jnp.ones(4096, jnp.bfloat16)

    def loss(w):
        return jnp.sum(w.astype(jnp.float32) ** 2)

    ratios = {}
    for dtype in ("float32", "bfloat16"):
        oracle = jopt.sam_value_and_grad(loss, perturb_dtype=dtype)
        _, grads, _, metrics = oracle.apply(oracle.init(w), w)
        assert grads.dtype == jnp.bfloat16
        ratios[dtype] = float(metrics["perturbation_ratio"])
    assert ratios["float32"] == pytest.approx(1.0, abs=1e-2)
    assert ratios["bfloat16"] == 0.0
    with pytest.warns(JoptWarning, match="rounded back"):
        check_sharpness({"perturbation_ratio": ratios["bfloat16"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_sharpness({"perturbation_ratio": ratios["float32"]})


def test_numbers_may_be_traced():
    w = jnp.asarray(W, jnp.float32)

    def run(rho, alpha, sigma):
        oracle = jopt.sam_value_and_grad(
            quadratic,
            jopt.l2_ascent(rho),
            combine=jopt.gsam(alpha),
            direction=jopt.f_sam_direction(sigma),
        )
        return oracle.apply(oracle.init(w), w)[1]

    grid = jnp.array([[0.1, 0.2, 0.3], [0.0, 0.4, 0.8], [0.0, 1.0, 0.5]])
    run = jax.jit(run)
    found = jax.vmap(run)(*grid)
    for row, args in zip(found, grid.T, strict=True):
        np.testing.assert_allclose(row, run(*args), rtol=1e-5)


def test_what_does_not_fit():
    loss = quadratic
    with pytest.raises(ConfigError, match="decoupled"):
        jopt.sam_value_and_grad(loss, combine=jopt.wsam(learning_rate=0.1))
    with pytest.raises(ConfigError, match="learning rate of the term"):
        jopt.wsam()
    with pytest.raises(ConfigError, match="unknown fallback"):
        jopt.sam_value_and_grad(loss, fallback="cleen")
    with pytest.raises(ConfigError, match="perturb_sync"):
        jopt.sam_value_and_grad(loss, perturb_sync="both")
    with pytest.raises(ConfigError, match="leave one of them out"):
        jopt.sam_value_and_grad(
            loss, group_size=1, axis_name="i", perturb_sync="global"
        )
    with pytest.raises(ConfigError, match="period of looksam is 0"):
        jopt.looksam(0)
    with pytest.raises(ConfigError, match="share in"):
        jopt.esam_value_and_grad(loss, gamma=0.0)
