"""Methods that weigh entries or layers by data: Fisher, RegMean, AdaMerging; angles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import merging
from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec


def logits_of(params, x_BD):
    return x_BD @ params["w"] + params["b"]


def test_fisher_squares_the_gradient_of_each_example(draw):
    """The square of a batch-summed gradient, as common code takes, is no Fisher."""
    params = {"w": draw(4, 3), "b": draw(3, seed=1), "steps": jnp.array(3)}
    inputs = draw(7, 4, seed=2)
    p = np.float64(jax.nn.softmax(logits_of(params, inputs)))
    expected = np.zeros((4, 3))
    summed = np.zeros((4, 3))
    for x, row in zip(np.float64(inputs), p, strict=True):
        for label in range(3):
            gradient = np.outer(x, np.eye(3)[label] - row)
            expected += row[label] * gradient**2 / len(inputs)
            summed += row[label] * gradient
    found = merging.fisher_information(logits_of, params, inputs)
    np.testing.assert_allclose(found["w"], expected, rtol=2e-5)
    assert isinstance(found["steps"], optax.MaskedNode)
    assert np.abs(summed).max() < 1e-6 < np.float64(found["w"]).min()


@pytest.mark.slow
def test_sampled_labels_have_the_same_mean(draw):
    params, inputs = {"w": draw(4, 3), "b": jnp.zeros(3)}, draw(3, 4, seed=2)
    expected = merging.fisher_information(logits_of, params, inputs)["w"]

    def sampled(key):
        return merging.fisher_information(
            logits_of, params, inputs, labels="sampled", key=key
        )["w"]

    found = jax.jit(jax.vmap(sampled))(jax.random.split(jax.random.key(0), 4000))
    error = found.std(axis=0) / 4000**0.5
    assert (jnp.abs(found.mean(axis=0) - expected) <= 5 * error).all()
    with pytest.raises(ConfigError, match="pass key"):
        merging.fisher_information(logits_of, params, inputs, labels="sampled")


def test_fisher_merge(reduced):
    fishers = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([3.0, 0.0])}]
    tasks = {"w": jnp.array([[0.0, 1.0], [4.0, 3.0]])}
    found = reduced(merging.fisher(), tasks, aux={"fishers": fishers})["w"]
    np.testing.assert_allclose(found, [3.0, 2.0], rtol=1e-6)
    found = reduced(merging.fisher(normalize=True), tasks, aux={"fishers": fishers})
    np.testing.assert_allclose(found["w"], [2.0, 1.5], rtol=1e-5)
    found = reduced(
        merging.fisher(), tasks, aux={"fishers": fishers}, weights=[3.0, 1.0]
    )
    np.testing.assert_allclose(found["w"], [2.0, 1.5], rtol=1e-5)


def test_regmean_solves_the_least_squares_of_all_tasks(reduced, draw):
    inputs, kernels = draw(3, 20, 5), draw(3, 5, 4, seed=1)
    grams = [merging.gram_matrices([{"w": x[:8]}, {"w": x[8:]}]) for x in inputs]
    np.testing.assert_allclose(grams[0]["w"], inputs[0].T @ inputs[0] / 20, rtol=1e-4)
    method = merging.regmean(off_diagonal=1.0, ridge=0.0)
    stacked = {"w": kernels, "b": draw(3, 4)}
    found = reduced(method, stacked, aux={"grams": grams})
    rows = np.float64(inputs).reshape(60, 5)
    wanted = np.concatenate(
        [x @ k for x, k in zip(np.float64(inputs), np.float64(kernels), strict=True)]
    )
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(found["w"], expected, atol=1e-5)
    np.testing.assert_allclose(found["b"], stacked["b"].mean(axis=0), rtol=1e-5)


@pytest.mark.slow
def test_regmean_of_inputs_that_are_never_active_and_of_heads(reduced, draw):
    gram = {"w": jnp.zeros((5, 5)).at[0, 0].set(2.0)}
    kernels = draw(2, 5, 2, 3)
    view = {"matrix_specs": {"w": MatrixSpec((0,), (2,))}}
    aux = {"grams": [gram, {"w": 0 * gram["w"]}]}
    found = reduced(merging.regmean(**view), {"w": kernels}, aux=aux)["w"]
    np.testing.assert_allclose(found[0], kernels[0, 0], rtol=1e-5)
    assert jnp.isfinite(found).all()
    nothing = {"grams": [{"w": jnp.zeros((5, 5))}] * 2}
    found = reduced(merging.regmean(**view), {"w": kernels}, aux=nothing)["w"]
    np.testing.assert_allclose(found, kernels.mean(axis=0), rtol=1e-5, atol=1e-7)
    with pytest.raises(ConfigError, match="'w', which is no matrix"):
        reduced(merging.regmean(), {"w": kernels}, aux=aux)


@pytest.mark.parametrize("per", ["leaf", pytest.param("task", marks=pytest.mark.slow)])
def test_adamerging_lowers_the_entropy(draw, per):
    base = {"w": draw(4, 3) * 0.1, "b": jnp.zeros(3)}
    tasks = {"w": draw(2, 4, 3, seed=1), "b": draw(2, 3, seed=2)}
    batches = [[draw(16, 4, seed=3), draw(16, 4, seed=4)]]
    found = merging.adamerging(
        [logits_of] * 2,
        base,
        tasks,
        batches,
        per=per,
        steps=30,
        optimizer=optax.adam(0.05),
        clamp=True,
        log_every=30,
    )
    assert set(found.coefficients) == ({""} if per == "task" else {"w", "b"})
    for x_T in found.coefficients.values():
        assert x_T.shape == (2,) and ((x_T >= 0) & (x_T <= 1)).all()
    assert found.history["loss"][-1] < 0.8 * found.history["loss"][0]
    at_start = merging.apply_task_vector(
        base, {p: x.sum(0) for p, x in tasks.items()}, 0.3
    )
    entropies = [merging.entropy(logits_of(at_start, x)).mean() for x in batches[0]]
    np.testing.assert_allclose(found.history["loss"][0], sum(entropies), rtol=1e-5)


@pytest.mark.parametrize(
    ("second", "t"), [([0.5, 0.75**0.5], 2 / 3), ([0, 1], 0), ([-1, 0], 0), ([1, 0], 1)]
)
def test_model_stock(reduced, second, t):
    tasks = {"w": jnp.array([[1.0, 0.0], second])}
    found = reduced(merging.model_stock(), tasks)["w"]
    np.testing.assert_allclose(found, t * tasks["w"].mean(axis=0), atol=1e-6)
    with pytest.raises(ConfigError, match="two tasks"):
        reduced(merging.model_stock(), {"w": jnp.ones((1, 2))})


@pytest.mark.parametrize(
    "scope", ["leaf", pytest.param("global", marks=pytest.mark.slow)]
)
def test_arcs(scope):
    first = {"w": jnp.array([1.0, 0.0]), "n": jnp.array(3)}
    second = {"w": jnp.array([0.0, 1.0]), "n": jnp.array(4)}
    long = {"w": 3 * second["w"], "n": second["n"]}
    found = merging.slerp(first, second, scope=scope)
    np.testing.assert_allclose(found["w"], [0.707107] * 2, rtol=1e-6)
    assert int(found["n"]) == 3
    found = merging.karcher([first, long], scope=scope)
    np.testing.assert_allclose(found["w"], [1.414214] * 2, rtol=1e-6)
    for t, end in ((0.0, first), (1.0, second)):
        np.testing.assert_allclose(
            merging.slerp(first, second, t)["w"], end["w"], atol=1e-7
        )
    zero = {"w": jnp.zeros(2), "n": jnp.array(3)}
    assert merging.slerp(first, zero)["w"].tolist() == [0.5, 0.0]
    for merged in (merging.slerp(long, long), merging.karcher([long, long, long])):
        np.testing.assert_allclose(merged["w"], long["w"], atol=1e-6)


@pytest.mark.slow
def test_the_karcher_mean_of_three_directions_is_stationary(draw):
    rows = np.float64(draw(3, 5)) + 2
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = np.float64(merging.karcher([{"w": jnp.float32(x)} for x in rows])["w"])
    size = np.linalg.norm(found)
    np.testing.assert_allclose(size, np.linalg.norm(rows, axis=1).mean(), rtol=1e-6)
    u = found / size
    cosines = units @ u
    angles = np.arccos(cosines)
    pull = (angles / np.sin(angles)) @ (units - cosines[:, None] * u)
    assert np.linalg.norm(pull) < 1e-4


@pytest.mark.slow
def test_emr_gives_each_task_its_signs_and_its_length(draw):
    stacked = {"a": draw(3, 30), "b": draw(3, 4, 5, seed=1)}
    model = jax.jit(merging.emr)(stacked)
    for task in range(3):
        found = model.for_task(task)
        own = jax.tree.map(lambda x, t=task: x[t], stacked)
        for path in stacked:
            some = found[path] != 0
            assert some.any()
            assert (jnp.sign(found[path]) == jnp.sign(own[path]))[some].all()
        np.testing.assert_allclose(
            merging.norm(found, 1), merging.norm(own, 1), rtol=1e-5
        )
    nothing = merging.emr({"w": jnp.zeros((2, 3))})
    assert not nothing.for_task(0)["w"].any()


@pytest.mark.slow
def test_pcb_drops_what_loses_the_competition(reduced, draw):
    stacked = {"a": draw(3, 60), "b": draw(3, 4, 10, seed=1)}
    found = reduced(merging.pcb(0.1), stacked)
    flat = np.concatenate([np.reshape(x, (3, -1)) for x in stacked.values()], axis=1)
    v = np.float64(flat)
    size = np.abs(v)
    low, high = np.quantile(size, [1e-4, 1 - 1e-4], axis=1)
    clamped = np.clip(size, low[:, None], high[:, None])

    def norm01(x):
        return (x - x.min(1, keepdims=True)) / np.ptp(x, axis=1, keepdims=True)

    balance = np.exp(3 * norm01(clamped) ** 2) * np.tanh(v * v.sum(axis=0))
    floor = np.quantile(balance, 0.9, axis=1)
    s = norm01(np.maximum(balance, floor[:, None]))
    expected = (s * np.sign(v) * clamped).sum(0) / np.maximum(s.sum(0), 1e-12)
    merged = np.concatenate([np.ravel(x) for x in found.values()])
    np.testing.assert_allclose(merged, expected, atol=1e-4)
    assert (merged == 0).mean() > 0.6
    constant = reduced(merging.pcb(), {"w": jnp.ones((2, 4))})["w"]
    assert jnp.isfinite(constant).all()
