"""The geometry switch against its definition in NumPy, float64, matrix by matrix."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.training._step import state_metrics, written
from jopt.transforms import read_choices, scale_by_geometry_switch

CODES = ("sign", "spectral", "euclidean")
# path -> where its matrices are.
SHAPES = {"matrix": (6, 4), "stack": (2, 4, 5), "heads": (4, 2, 3), "fused": (4, 6)}


def matrices(name, x):
    """The matrices (fan-in, fan-out) of a parameter."""
    if name == "stack":
        return list(x)
    if name == "heads":
        return [x[:, h] for h in range(2)]
    return [x[:, :4], x[:, 4:]] if name == "fused" else [x]


def assemble(name, blocks):
    if name in ("stack", "heads"):
        return np.stack(blocks, axis=0 if name == "stack" else 1)
    return np.concatenate(blocks, axis=1)


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def norms(x):
    return {
        "sign": np.abs(x).sum(),
        "spectral": np.linalg.svd(x, compute_uv=False).sum(),
        "euclidean": np.linalg.norm(x),
    }


def curvatures(x, gram, mode):
    m, n = x.shape[1], x.shape[0]
    if gram is None:
        return {"sign": m * math.sqrt(n), "spectral": 1.0, "euclidean": n**-0.5}
    if mode == "worst_case":
        signs = np.array(np.meshgrid(*[[-1, 1]] * n)).reshape(n, -1)
        largest = np.einsum("is,ij,js->s", signs, gram, signs).max()
        top = np.linalg.eigvalsh(gram)[-1]
        return {"sign": m * largest, "spectral": np.trace(gram), "euclidean": top}
    steps = {
        "sign": np.sign(x),
        "spectral": polar(x),
        "euclidean": x / np.linalg.norm(x),
    }
    return {name: np.trace(d.T @ gram @ d) for name, d in steps.items()}


def step(kind, c, rms=0.2):
    if kind == "sign":
        return rms * np.sign(c)
    d = polar(c) if kind == "spectral" else c
    return rms * math.sqrt(c.size) * d / np.linalg.norm(d)


def scores(criterion, geometries, s, n, curvature):
    """Twice the log of the gain of each geometry that is in, -inf for the others."""
    found = {}
    for name in geometries:
        excess = max(s[name] - n[name], 1e-3 * s[name])
        if criterion == "det":
            excess = s[name]
        found[name] = 2 * math.log(excess) - math.log(curvature[name])
        if criterion == "snr":
            found[name] = 2 * math.log(s[name] / n[name])
        if criterion == "nuclear_stable":
            rank = (s["spectral"] / s["euclidean"]) ** 2
            stable = curvature["spectral"] / curvature["euclidean"]
            found[name] = math.log(rank / stable) if name == "spectral" else 0.0
        if criterion in ("spec_sign", "snr") and s[name] <= n[name]:
            found[name] = -math.inf
    return found


class Matrix:
    """Momentum, averages and choice of one matrix."""

    def __init__(self, shape, settings):
        self.set = settings
        self.m = np.zeros(shape)
        self.mean, self.weight = None, 0.0
        self.choice = settings["initial"] or settings["geometries"][0]
        self.since = None if settings["initial"] is None else 0
        self.margins = []  # how far decisions were from being others

    def update(self, t, g, delta, gram):
        b1, b2 = self.set["b1"], self.set["b2"]
        c = b1 * self.m + (1 - b1) * g
        self.m = b2 * self.m + (1 - b2) * g
        if t % self.set["every"] == 0:
            self.measure(t, g, c, delta, gram)
        return step(self.choice, c)

    def measure(self, t, g, c, delta, gram):
        b1, b2, decay = self.set["b1"], self.set["b2"], self.set["ema_decay"]
        x, noise = g, norms(delta)
        if self.set["signal"] == "direction":
            x = c
            # C is a sum of independent gradients with these weights.
            weights = [1 - b1] + [b1 * (1 - b2) * b2**k for k in range(t)]
            noise = {k: v * np.linalg.norm(weights) for k, v in noise.items()}
        new = norms(x), noise, curvatures(x, gram, self.set["curvature"])
        self.weight = decay * self.weight + 1 - decay
        if self.mean is None:
            self.mean = new
        else:
            part = (1 - decay) / self.weight
            self.mean = tuple(
                {k: old[k] + part * (v[k] - old[k]) for k in old}
                for old, v in zip(self.mean, new, strict=True)
            )
        self.decide(t)

    def decide(self, t):
        found = scores(self.set["criterion"], self.set["geometries"], *self.mean)
        best = max(found, key=found.get)
        if found[best] == -math.inf:
            return
        ranked = sorted(found.values())
        self.margins.append(ranked[-1] - ranked[-2])
        if self.since is None:
            self.choice, self.since = best, t
            return
        lead = found[best] - found[self.choice]
        self.margins.append(abs(lead - self.set["hysteresis"]))
        if lead > self.set["hysteresis"] and t - self.since >= self.set["min_dwell"]:
            self.choice, self.since = best, t


DEFAULTS = {
    "criterion": "spec_sign",
    "geometries": ("sign", "spectral"),
    "b1": 0.9,
    "b2": 0.99,
    "curvature": "directional",
    "signal": "gradient",
    "ema_decay": 0.8,
    "hysteresis": 0.1,
    "min_dwell": 4,
    "every": 2,
    "initial": None,
}


def reference(params, grads, deltas, grams, settings, rate, decay):
    """Parameters at the end, choices after every step, and the closest decision."""
    settings = DEFAULTS | settings
    all_choices, params = [], dict(params)
    states = {
        name: [Matrix(x.shape, settings) for x in matrices(name, w)]
        for name, w in params.items()
    }
    for t, (g, delta) in enumerate(zip(grads, deltas, strict=True)):
        for name, own in states.items():
            gram = grams.get(name, [None] * len(own))
            parts = zip(
                own,
                matrices(name, g[name]),
                matrices(name, delta[name]),
                gram,
                strict=True,
            )
            moved = assemble(name, [s.update(t, *rest) for s, *rest in parts])
            params[name] = params[name] - rate * (moved + decay * params[name])
        all_choices.append({n: [s.choice for s in own] for n, own in states.items()})
    margins = [x for own in states.values() for s in own for x in s.margins]
    return params, all_choices, min(margins)


def problem(steps, seed=0):
    """Gradients whose kind changes: of low rank, then sparse, with noise of its own."""
    rng = np.random.default_rng(seed)
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    grads, deltas = [], []
    for t in range(steps):
        g, delta = {}, {}
        for name, shape in SHAPES.items():
            blocks = matrices(name, np.zeros(shape))
            kinds = [(t // 8 + i) % 2 for i in range(len(blocks))]
            made = [_signal(rng, b.shape, kind) for b, kind in zip(blocks, kinds)]  # noqa: B905
            g[name] = assemble(name, [x for x, _ in made])
            delta[name] = assemble(name, [x for _, x in made])
        grads.append(g)
        deltas.append(delta)
    root = rng.standard_normal((6, 30))
    grams = {"matrix": [root @ root.T / 30]}
    roots = rng.standard_normal((2, 4, 20)) * np.array([1, 3, 1, 1])[:, None]
    grams["stack"] = [a @ a.T / 20 for a in roots]
    return params, grads, deltas, grams


def _signal(rng, shape, kind):
    m, n = shape
    low = np.outer(rng.standard_normal(m), rng.standard_normal(n))
    spikes = rng.standard_normal(shape) * (rng.random(shape) < 0.3)
    flat = rng.standard_normal(shape)
    if kind == 0:
        return low + 0.3 * flat, 0.3 * spikes + 0.01 * flat
    return 2 * np.eye(m, n) + 0.3 * flat, 0.3 * low


STEPS, RATE, DECAY = 24, 0.02, 0.1
SPECS = {
    "stack": jopt.MatrixSpec((1,), (2,)),
    "heads": jopt.MatrixSpec((0,), (2,)),
    "fused": jopt.MatrixSpec((0,), (1,), split=(4, 2)),
}
EXACT = {"method": "svd", "stats_method": "svd", "matrix_specs": SPECS}
QUICK = {"ema_decay": 0.8, "min_dwell": 4, "every": 2}
PROBLEM = problem(STEPS, seed=3)


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


PARAMS, GRADS, NOISE, GRAMS = (single(x) for x in PROBLEM)
# One Gram matrix for each matrix of a stack, as (batch..., fan-in, fan-in).
GRAMS = {"matrix": GRAMS["matrix"][0], "stack": jnp.stack(GRAMS["stack"])}
EXTRA = {"half_difference": NOISE[0], "activation_grams": GRAMS}


def run(tx, steps=STEPS):
    """The parameters at the end, and the choices and the state after every step."""

    @jax.jit
    def step(g, noise, state, params):
        updates, state = tx.update(
            g, state, params, half_difference=noise, activation_grams=GRAMS
        )
        return optax.apply_updates(params, updates), state

    params, state, seen = PARAMS, tx.init(PARAMS), []
    for g, noise in zip(GRADS[:steps], NOISE[:steps], strict=True):
        params, state = step(g, noise, state, params)
        seen.append((read_choices(state), state))
    return params, seen


def by_matrix(name, names):
    """The choices of a parameter as the reference lists them."""
    shape = SHAPES[name]
    if name == "fused":
        return names.ravel().tolist()
    whole = np.broadcast_to(names, shape)
    return [x[0, 0] for x in matrices(name, whole)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *(
            pytest.param(settings, marks=pytest.mark.slow, id=name)
            for name, settings in {
                "snr": {"criterion": "snr"},
                "det": {"criterion": "det"},
                "ranks": {"criterion": "nuclear_stable", "curvature": "worst_case"},
                "three": {"geometries": ("sign", "spectral", "euclidean")},
                "without_sign": {"geometries": ("spectral", "euclidean")},
                "direction": {"signal": "direction", "b2": 0.9},
                "bounds": {"curvature": "worst_case"},
                "started": {"initial": "spectral", "hysteresis": 0.5},
            }.items()
        ),
    ],
)
def test_the_recursion_in_numpy(settings):
    """float32 beside float64: the same choices, parameters 9e-7 apart, bound 2e-6."""
    expected, choices, margin = reference(*PROBLEM, QUICK | settings, RATE, DECAY)
    assert margin > 1e-3  # no decision that rounding could turn
    tx = jopt.spec_sign.matrices(
        RATE, weight_decay=DECAY, **EXACT, **(QUICK | settings)
    )
    found, seen = run(tx)
    for step, (names, _) in enumerate(seen):
        for name in SHAPES:
            assert by_matrix(name, names[name]) == choices[step][name], (step, name)
    assert any(choices[t] != choices[0] for t in range(STEPS))
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_first_index_and_what_is_reported():
    """Figures after one step are those of this step: nothing is averaged yet."""
    tx = scale_by_geometry_switch(**EXACT, **QUICK)
    params = PARAMS | {"other": jnp.ones(3)}
    mask = {name: name in SHAPES for name in params}
    masked = optax.masked(tx, mask, mask_compatible_extra_args=True)
    grads = GRADS[0] | {"other": jnp.ones(3)}
    noise = NOISE[0] | {"other": jnp.zeros(3)}
    extra = {"half_difference": noise, "activation_grams": GRAMS}
    _, state = jax.jit(masked.update)(grads, masked.init(params), params, **extra)
    found = written(jax.device_get(state_metrics(state, params)), params)
    g, delta, gram = *(x[0]["matrix"] for x in PROBLEM[1:3]), PROBLEM[3]["matrix"][0]
    s, n = (np.linalg.svd(x, compute_uv=False).sum() for x in (g, delta))
    layer = {k.split("/")[-1]: v for k, v in found.items() if "/matrix/" in k}
    assert layer["noise_scale_spectral"] == pytest.approx((n / s) ** 2, rel=1e-5)
    assert layer["nuclear_rank"] == pytest.approx(s**2 / (g**2).sum(), rel=1e-5)
    assert layer["spec_sign_index"] == pytest.approx(
        layer["det_term"] + layer["noise_term"], rel=1e-5
    )
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    flat, steep = (np.trace(d.T @ gram @ d) for d in (np.sign(g), u @ vt))
    det = np.log(flat / steep) + 2 * np.log(s / np.abs(g).sum())
    assert layer["det_term"] == pytest.approx(det, rel=1e-4)
    assert [found[f"layer/{name}/has_gram"] for name in SHAPES] == [1, 1, 0, 0]
    assert not any("other" in name for name in found)
    shares = [found[f"layer/{name}/spectral_share"] for name in SHAPES]
    counts = [1, 2, 2, 2]
    assert found["optim/inner_state/spectral_share"] == pytest.approx(
        np.dot(shares, counts) / 7
    )
    with_none = written({"geometry": tx.init(PARAMS).metrics["geometry"]}, PARAMS)
    assert with_none == {}


@pytest.mark.slow
def test_decisions_that_are_read_on_the_host_give_the_same_run():
    """A program for the choices of every step, built where they have changed."""
    settings = EXACT | QUICK | {"geometries": CODES}
    whole = scale_by_geometry_switch(**settings)
    host = {}
    start = state = whole.init(PARAMS)
    for g, noise in zip(GRADS, NOISE, strict=True):
        extra = {"half_difference": noise, "activation_grams": GRAMS}
        expected, start = jax.jit(whole.update)(g, start, **extra)
        choices = read_choices(start)
        key = str({name: names.tolist() for name, names in choices.items()})
        if key not in host:
            tx = scale_by_geometry_switch(**settings, mode="host", choices=choices)
            host[key] = jax.jit(tx.update)
        updates, state = host[key](g, state, **extra)
        for name, x in updates.items():
            np.testing.assert_allclose(x, expected[name], atol=1e-6)
    assert 1 < len(host) < STEPS
