"""Algorithms over environments: worked figures, references, edges, one program."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jopt.errors import ConfigError, ShapeError
from jopt.models import mlp, transformer_lm
from jopt.objectives import environments as envs
from jopt.training.algorithms import ALGORITHMS, build_algorithm, settings_of

KEY = jax.random.key(0)
MODEL = mlp({"hidden_dim": 6, "num_layers": 1, "input_dim": 5, "num_classes": 3})
E, B = 3, 8


def batch_of(seed=0, mask=None, count=E):
    rng = np.random.default_rng(seed)
    return {
        "inputs": jnp.asarray(rng.normal(size=(count, B, 5)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 3, (count, B)), jnp.int32),
        "mask": jnp.ones((count, B)) if mask is None else jnp.asarray(mask),
    }


@functools.cache
def start():
    params, _ = MODEL.init(KEY, {"inputs": jnp.ones((1, 5))})
    head = jax.random.normal(KEY, params["head"]["kernel"].shape)
    return {**params, "head": {**params["head"], "kernel": head}}


def value_of(algorithm, batch, params=None, key=KEY, step=0, count=E):
    params = start() if params is None else params
    state = algorithm.init(params, count)._replace(step=jnp.int32(step))
    value, (aux, state) = algorithm.loss(params, {}, state, batch, key)
    return value, aux.metrics, state


def settings_that_work(name):
    """Of an algorithm on three environments, with its penalty at work at step 0."""
    zero = {
        setting: 0
        for setting in ("anneal_steps", "irm_anneal_steps", "burn_in_steps")
        if setting in settings_of(name)
    }
    return zero | {"sand_mask": {"threshold": 0.5}}.get(name, {})


def test_irm_by_hand():
    """Logits of the specification, and the closed form against the derivative."""
    logits = jnp.array([[[2.0, 0], [0, 1], [1, 1], [3, -1]]])
    y, mask = jnp.array([[0, 1, 0, 1]]), jnp.ones((1, 4))
    risk, present = envs.risks_of(logits, y, mask)
    np.testing.assert_allclose(risk, [1.287872], atol=1e-6)
    assert present.tolist() == [1]
    halves = [
        envs.risk_slopes(logits[:, k::2], y[:, k::2], mask[:, k::2])[0] for k in (0, 1)
    ]
    np.testing.assert_allclose(halves, [-0.119203, 1.829557], atol=1e-6)
    split, full = (envs.irm_penalties(logits, y, mask, e)[0] for e in ("split", "full"))
    np.testing.assert_allclose([split, full], [-0.218089, 0.731328], atol=1e-6)
    weights = jnp.array([[1.0, 0.0, 0.5, 1.0]])
    slope = jax.grad(lambda s: envs.risks_of(s * logits, y, weights)[0][0])(1.0)
    np.testing.assert_allclose(
        envs.risk_slopes(logits, y, weights)[0], slope, rtol=1e-5
    )


def test_vrex_and_group_weights_by_hand():
    risks = jnp.array([0.2, 0.6, 1.0])
    variance = envs.variance_between(risks, jnp.ones(3))
    np.testing.assert_allclose(variance, 0.1066667, atol=1e-6)
    q = envs.group_weights(jnp.ones(3), risks, 0.5)
    np.testing.assert_allclose(q, [0.269308, 0.328933, 0.401760], atol=1e-6)
    np.testing.assert_allclose(q @ risks, 0.652981, atol=1e-6)
    huge = envs.group_weights(jnp.ones(2), jnp.array([1e6, 0.0]), 10.0)
    assert huge.tolist() == [1, 0]


def test_coral_by_hand_and_with_rows_left_out():
    a, b = [[0.0, 0], [2, 2]], [[1.0, 0], [1, 4]]
    both, kept = jnp.array([a, b]), jnp.ones((2, 2))
    means = both.mean(1, keepdims=True)
    assert envs.coral_distance(both - means, kept) == 12, "that of covariances"
    assert envs.coral_distance(both[:1] + means, kept) == 0.5, "that of means"
    assert envs.coral_distance(both, kept) == 12.5
    assert envs.coral_distance(jnp.array([a, a]), kept) == 0
    more = jnp.concatenate([both, jnp.full((2, 3, 2), 99.0)], axis=1)
    mask = jnp.array([[1.0, 1, 0, 0, 0]] * 2)
    np.testing.assert_allclose(envs.coral_distance(more, mask), 12.5, rtol=1e-6)


@pytest.mark.slow
def test_distances_agree_with_sums_over_pairs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 6, 3)) * [[[1]], [[2]], [[1]], [[3]]]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    means, covariances = x.mean(1), [np.cov(rows.T) for rows in x]

    def between(i, j):
        first = ((means[i] - means[j]) ** 2).mean()
        return first + ((covariances[i] - covariances[j]) ** 2).mean()

    kept = jnp.ones((4, 6))
    found = envs.coral_distance(jnp.asarray(x, jnp.float32), kept)
    np.testing.assert_allclose(found, np.mean([between(i, j) for i, j in pairs]), 1e-5)

    def kernel(a, b):
        apart = ((a[:, None] - b) ** 2).sum(-1)
        return sum(np.exp(-g * apart) for g in 10.0 ** np.arange(-3, 4)).mean()

    expected = np.mean(
        [
            kernel(x[i], x[i]) + kernel(x[j], x[j]) - 2 * kernel(x[i], x[j])
            for i, j in pairs
        ]
    )
    found = envs.mmd_distance(jnp.asarray(x, jnp.float32), kept)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found = envs.feature_variance(jnp.asarray(x, jnp.float32), kept)
    np.testing.assert_allclose(found, x.var(1, ddof=1).mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    "alpha",
    [0.75, *(pytest.param(a, marks=pytest.mark.slow) for a in (0.05, 0.5, 0.99))],
)
def test_risk_quantile_solves_its_equation(alpha):
    risks = np.array([0.3, 0.9, 0.35, 1.4])

    def quantile(r):
        h = 1.06 * r.std(ddof=1) * len(r) ** -0.2
        excess = lambda x: stats.norm.cdf((x - r) / h).mean() - alpha  # noqa: E731
        return optimize.brentq(excess, r.min() - 20 * h, r.max() + 20 * h, xtol=1e-13)

    found, slope = jax.value_and_grad(envs.risk_quantile)(
        jnp.asarray(risks, jnp.float32), alpha
    )
    np.testing.assert_allclose(found, quantile(risks), rtol=1e-5)
    moved = [
        (quantile(risks + d) - quantile(risks - d)) / 2e-5 for d in 1e-5 * np.eye(4)
    ]
    np.testing.assert_allclose(slope, moved, atol=2e-4)


@pytest.mark.slow
def test_risk_quantile_of_equal_risks():
    for risks in (jnp.array([0.4]), jnp.array([0.4, 0.4, 0.4])):
        found, slope = jax.value_and_grad(envs.risk_quantile)(risks, 0.75)
        np.testing.assert_allclose(found, 0.4, rtol=1e-6)
        np.testing.assert_allclose(slope, 1 / len(risks), rtol=1e-5)


@pytest.mark.slow
def test_gradient_variances_are_those_of_each_row():
    batch = batch_of(mask=np.r_[np.ones(20), np.zeros(4)].reshape(E, B))
    batch["mask"] = batch["mask"].at[2, 4:].set(0)
    params = start()

    def of_row(head, x, y):
        rows = {"inputs": x[None], "targets": y[None], "mask": jnp.ones(1)}
        logits = MODEL.apply({**params, "head": head}, {}, rows, key=None, train=False)[
            0
        ]
        return -jax.nn.log_softmax(logits)[0, y]

    grads = jax.vmap(jax.vmap(jax.grad(of_row), (None, 0, 0)), (None, 0, 0))(
        params["head"], batch["inputs"], batch["targets"]
    )
    expected = [
        np.concatenate([g["bias"][:, None], g["kernel"]], axis=1)[: int(n)].var(0)
        for g, n in (
            (
                jax.tree.map(lambda x, e=e: np.asarray(x[e]), grads),
                batch["mask"][e].sum(),
            )
            for e in range(E)
        )
    ]
    algorithm = envs.fishr(MODEL, ema=0.5, anneal_steps=0, penalty_weight=7)
    value, metrics, state = value_of(algorithm, batch)
    np.testing.assert_allclose(
        state.memory["variances"], 0.5 * np.array(expected), rtol=1e-4, atol=1e-6
    )
    spread = np.array(expected)
    spread = ((spread - spread.mean(0)) ** 2).mean()
    np.testing.assert_allclose(metrics["penalty"], spread, rtol=1e-3)
    pooled = value_of(envs.sd(MODEL, penalty_weight=0), batch)[0]
    np.testing.assert_allclose(value, pooled + 7 * spread, rtol=1e-4)


def test_erm_is_the_mean_of_the_risks_and_others_add_to_it():
    batch = batch_of()
    risk, metrics, state = value_of(envs.erm(MODEL), batch)
    each = [metrics[f"env{e}/risk"] for e in range(E)]
    np.testing.assert_allclose(risk, np.mean(each), rtol=1e-6)
    assert state.step == 1 and metrics["examples"] == E * B
    expected = {
        envs.group_dro(MODEL, step_size=0.0): risk,
        envs.vrex(MODEL, penalty_weight=3, anneal_steps=0): risk + 3 * np.var(each),
        envs.vrex(MODEL, penalty_weight=3, anneal_steps=1): risk + np.var(each),
        envs.ib_erm(MODEL, anneal_steps=1): risk,
        envs.fishr(MODEL, anneal_steps=1): risk,
        envs.eqrm(MODEL, burn_in_steps=1): risk,
    }
    for algorithm, value in expected.items():
        np.testing.assert_allclose(value_of(algorithm, batch)[0], value, rtol=1e-5)
    late = value_of(envs.eqrm(MODEL, burn_in_steps=1), batch, step=1)[0]
    np.testing.assert_allclose(late, envs.risk_quantile(jnp.array(each), 0.75), 1e-5)
    assert late > risk


def test_irm_of_identical_environments_is_erm_and_the_penalty():
    one = batch_of(count=1)
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), one)
    risk = value_of(envs.erm(MODEL), two, count=2)[0]
    logits = MODEL.apply(
        start(), {}, {"inputs": one["inputs"][0]}, key=None, train=False
    )[0]
    for estimator in ("split", "full"):
        algorithm = envs.irm(
            MODEL, penalty_weight=1, anneal_steps=0, estimator=estimator
        )
        P = envs.irm_penalties(logits[None], one["targets"], one["mask"], estimator)[0]
        np.testing.assert_allclose(value_of(algorithm, two, count=2)[0], risk + P, 1e-5)
    heavy = envs.irm(MODEL, penalty_weight=1e4, anneal_steps=1, normalize=True)
    before, after = (value_of(heavy, two, step=step)[0] for step in (0, 1))
    P = envs.irm_penalties(logits[None], one["targets"], one["mask"])[0]
    np.testing.assert_allclose(before, risk + P, rtol=1e-5)
    np.testing.assert_allclose(after, (risk + 1e4 * P) / 1e4, rtol=1e-4, atol=1e-6)


def test_resets_and_learning_rates_are_due_at_their_step():
    algorithm = envs.irm(MODEL, anneal_steps=2.5)
    state = algorithm.init(start(), E)
    due = [
        algorithm.resets_optimizer(state._replace(step=jnp.int32(t))) for t in range(5)
    ]
    assert [bool(d) for d in due] == [False, False, False, True, False]
    assert not envs.erm(MODEL).resets_optimizer(state)
    assert np.isnan(envs.erm(MODEL).learning_rate(state))
    late = envs.eqrm(MODEL, burn_in_steps=1)
    state = late.init(start(), E)
    assert np.isnan(late.learning_rate(state))
    assert late.learning_rate(state._replace(step=jnp.int32(1))) == np.float32(1e-6)


@pytest.mark.slow
def test_iga_and_its_gradient():
    """Against the definition, and its gradient against a difference in float32."""
    batch, params, plain = batch_of(), start(), envs.erm(MODEL)
    algorithm = envs.iga(MODEL, penalty_weight=2)

    @jax.jit
    def gradients(params):
        value, grads, _ = envs.environment_gradients(
            plain, params, {}, plain.init(params, E), batch, None
        )
        leaves = [g.reshape(E, -1) for g in jax.tree.leaves(grads)]
        return value, jnp.concatenate(leaves, axis=1)

    risk, flat = gradients(params)
    value, slope = jax.jit(
        jax.value_and_grad(lambda p: value_of(algorithm, batch, p)[0])
    )(params)
    spread = ((flat - flat.mean(0)) ** 2).sum()
    np.testing.assert_allclose(value, risk + 2 * spread, rtol=1e-5)

    def held(size):
        """The loss some way along d, with the mean gradient of the start."""
        risk, moved = gradients(jax.tree.map(lambda p, q: p + size * q, params, d))
        return float(risk + 2 * ((moved - flat.mean(0)) ** 2).sum())

    d = jax.tree.map(lambda p: jax.random.normal(KEY, p.shape), params)
    along = jax.tree.map(jnp.vdot, slope, d)
    difference = (held(1e-3) - held(-1e-3)) / 2e-3
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), difference, rtol=2e-2)


@pytest.mark.slow
def test_mldg_is_first_order():
    """Of two environments: g_i + β g_j at θ − α g_i, for one order of the two."""
    batch, params, beta, rate = batch_of(count=2), start(), 0.7, 0.3
    algorithm = envs.mldg(
        MODEL, beta=beta, inner_learning_rate=rate, test_environments=1
    )
    found = jax.jit(jax.grad(lambda p: value_of(algorithm, batch, p, count=2)[0]))(
        params
    )

    @jax.jit
    def gradient(params, e):
        state = envs.erm(MODEL).init(params, 2)
        return envs.environment_gradient(
            envs.erm(MODEL), params, {}, state, batch, None, e
        )

    distances = []
    for i, j in ((0, 1), (1, 0)):
        g = gradient(params, i)
        there = jax.tree.map(lambda p, q: p - rate * q, params, g)
        expected = jax.tree.map(lambda a, b: a + beta * b, g, gradient(there, j))
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), found, expected)
        distances.append(max(map(float, jax.tree.leaves(apart))))
    assert min(distances) < 1e-5 < max(distances)


@pytest.mark.slow
def test_mixup_mixes_rows_of_two_environments():
    batch = batch_of()
    one = batch_of(count=1)
    np.testing.assert_allclose(
        value_of(envs.mixup(MODEL), one, count=1)[0],
        value_of(envs.erm(MODEL), one, count=1)[0],
        rtol=1e-5,
    )
    values = {
        float(value_of(envs.mixup(MODEL), batch, key=jax.random.key(s))[0])
        for s in (1, 2)
    }
    assert len(values) == 2 and np.isfinite(list(values)).all()
    # A large α makes λ a half, and both pairs of two environments the same rows.
    two = jax.tree.map(lambda x: x[:2], batch)
    half = {**two, "inputs": jnp.broadcast_to(two["inputs"].mean(0), (2, B, 5))}
    np.testing.assert_allclose(
        value_of(envs.mixup(MODEL, alpha=1e8), two, count=2)[0],
        value_of(envs.erm(MODEL), half, count=2)[0],
        rtol=1e-3,
    )
    tokens = {**batch, "inputs": batch["targets"]}
    with pytest.raises(ConfigError, match="inputs are int32, which cannot be mixed"):
        value_of(envs.mixup(MODEL), tokens)
    with pytest.raises(ConfigError, match="give its loss a key"):
        value_of(envs.mixup(MODEL), batch, key=None)


QUICK = ("irm",)


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ALGORITHMS
    ],
)
def test_masked_rows_have_no_influence(name):
    """And one environment is enough, except for MLDG, whose penalty is 0 or finite."""
    algorithm = build_algorithm(name, MODEL, settings_that_work(name))
    mask = np.ones((E, B))
    mask[0, 5:] = mask[2, 6:] = 0
    batch = batch_of(mask=mask)
    hidden = jnp.asarray(mask) == 0
    other = {
        **batch,
        "inputs": jnp.where(hidden[..., None], 7.0, batch["inputs"]),
        "targets": jnp.where(hidden, 0, batch["targets"]),
    }
    loss = jax.jit(
        jax.value_and_grad(lambda p, batch: value_of(algorithm, batch, p)[0])
    )
    (first, grad), (second, _) = loss(start(), batch), loss(start(), other)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grad))
    if name != "mldg":
        value, metrics, _ = value_of(algorithm, batch_of(count=1), count=1)
        assert np.isfinite(value)
        if name in ("vrex", "coral", "mmd", "iga"):
            assert metrics["penalty"] == 0


@pytest.mark.slow
def test_an_environment_without_rows_is_left_out():
    batch = batch_of()
    empty = {**batch, "mask": batch["mask"].at[1].set(0)}
    two = jax.tree.map(lambda x: x[jnp.array([0, 2])], batch)
    for name in ("erm", "irm", "vrex", "coral", "mmd", "ib_irm", "fishr", "eqrm"):
        algorithm = build_algorithm(name, MODEL, settings_that_work(name))
        np.testing.assert_allclose(
            value_of(algorithm, empty)[0],
            value_of(algorithm, two, count=2)[0],
            rtol=1e-5,
            err_msg=name,
        )


@pytest.mark.parametrize(
    "name",
    ["irm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fishr", "eqrm"))],
)
def test_settings_are_arrays_that_need_no_other_program(name):
    """λ, anneal and the rest: one trace for all values, and for the lanes of a vmap."""
    batch, params, traces = batch_of(), start(), []
    algorithm = build_algorithm(name, MODEL, settings_that_work(name))

    @jax.jit
    def value(state):
        traces.append(name)
        return algorithm.loss(params, {}, state, batch, None)[0]

    first = algorithm.init(params, E)
    states = [
        first._replace(settings={k: f * x for k, x in first.settings.items()})
        for f in (0.0, 0.5, 0.001)
    ]
    apart = [value(state) for state in states]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    np.testing.assert_allclose(jax.vmap(value)(stacked), apart, rtol=1e-5)
    assert len(traces) == 1
    assert apart[0] != apart[1]


@pytest.mark.slow
def test_settings_may_be_traced_where_an_algorithm_is_made():
    def value(weight):
        algorithm = envs.irm(MODEL, penalty_weight=weight, anneal_steps=0)
        return value_of(algorithm, batch_of())[0]

    lanes = jax.vmap(value)(jnp.array([0.0, 10.0]))
    np.testing.assert_allclose(lanes, [value(0.0), value(10.0)], rtol=1e-5)


@pytest.mark.slow
def test_half_precision_logits_are_widened_first():
    half = mlp(
        {
            "hidden_dim": 6,
            "num_layers": 1,
            "input_dim": 5,
            "num_classes": 3,
            "compute_dtype": "bfloat16",
        }
    )
    batch = batch_of()
    value, aux, _ = value_of(envs.irm(half, anneal_steps=0), batch)
    assert value.dtype == jnp.float32
    logits = half.apply(
        start(), {}, {"inputs": batch["inputs"].reshape(-1, 5)}, key=None, train=False
    )[0]
    assert logits.dtype == jnp.bfloat16
    exact = np.asarray(logits, np.float64).reshape(E, B, 3)
    y = np.asarray(batch["targets"])
    nats = (
        np.log(np.exp(exact).sum(-1))
        - np.take_along_axis(exact, y[..., None], -1)[..., 0]
    )
    np.testing.assert_allclose(aux["risk"], nats.mean(), rtol=1e-6)


@pytest.mark.slow
def test_positions_of_a_language_model_count_as_rows():
    small = {"vocab_size": 11, "num_layers": 1, "embed_dim": 8, "num_heads": 2}
    model = transformer_lm(small)
    ids = jax.random.randint(KEY, (2, 3, 4), 0, 11)
    batch = {"inputs": ids, "targets": ids, "mask": jnp.ones((2, 3, 4))}
    params, _ = model.init(KEY, {name: x[0] for name, x in batch.items()})
    params = {**params, "head": {"kernel": jax.random.normal(KEY, (8, 11))}}
    for name in ("irm", "coral"):
        algorithm = build_algorithm(name, model)
        value, metrics, _ = value_of(algorithm, batch, params, count=2)
        assert metrics["examples"] == 24 and np.isfinite(value)
        assert metrics["penalty"] != 0


def test_batches_that_cannot_be():
    flat = {name: x[0] for name, x in batch_of().items()}
    with pytest.raises(ShapeError, match=r"inputs \(E, B, \.\.\.\)"):
        value_of(envs.erm(MODEL), flat)
    single = jax.tree.map(lambda x: x[:, :1], batch_of())
    for name in ("irm", "coral", "ib_erm"):
        with pytest.raises(ConfigError, match="at least 2 rows of each environment"):
            value_of(build_algorithm(name, MODEL), single)
    assert np.isfinite(value_of(envs.irm(MODEL, estimator="full"), single)[0])
    with pytest.raises(ConfigError, match="test_environments is 2 of 2"):
        envs.mldg(MODEL).init({}, 2)
    with pytest.raises(ConfigError, match="layers/0/input has"):
        value_of(envs.coral(_per_token(), features="layers/0/input"), batch_of())
    with pytest.raises(ConfigError, match="multiplies none"):
        envs.fishr(MODEL, features="layers/1/input")
    for name in ("irm", "ib_irm"):
        with pytest.raises(ConfigError, match="unknown estimator 'half'"):
            build_algorithm(name, MODEL, {"estimator": "half"})
    with pytest.raises(ConfigError, match="did you mean 'irm'"):
        build_algorithm("irmm", MODEL)


def _per_token():
    """A model whose first tap has two rows for each example."""

    def apply(*args, taps=(), **kwargs):
        outputs, state, found = MODEL.apply(*args, taps=taps, **kwargs)
        return outputs, state, {name: jnp.repeat(x, 2, 0) for name, x in found.items()}

    return dataclasses.replace(MODEL, apply=apply)
