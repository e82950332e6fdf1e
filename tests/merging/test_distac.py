"""Distillation loss, DisTaC, and what is said about harmful sources."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt import merging
from jopt.errors import ConfigError, JoptWarning
from jopt.merging._descend import descend

Z_T, Z_S = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[0.5, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("teacher", "student", "loss", "gradient"),
    [
        (1, 1, 0.129361, (-0.213378, 0.029340, 0.184038)),
        (1, 10, 2.499006, (-0.320705, 0.083004, 0.237702)),
        (10, 10, 0.191272, (-0.226299, -0.044927, 0.271227)),
    ],
)
def test_distillation_loss_by_hand(teacher, student, loss, gradient):
    def value(z_s):
        return merging.distillation_loss(
            z_s, Z_T, teacher_temperature=teacher, student_temperature=student
        )

    found, grads = jax.value_and_grad(value)(Z_S)
    np.testing.assert_allclose(found, loss, rtol=2e-5)
    np.testing.assert_allclose(grads[0], gradient, atol=2e-6)


@pytest.mark.slow
def test_equal_temperatures_give_the_usual_loss_and_gradient(draw):
    z_s, z_t, t = draw(5, 7), draw(5, 7, seed=1), 3.0

    def value(z_s, z_t):
        return merging.distillation_loss(
            z_s, z_t, teacher_temperature=t, student_temperature=t
        )

    p, q = (np.float64(jax.nn.softmax(z / t)) for z in (z_s, z_t))
    kl = np.sum(q * (np.log(q) - np.log(p)), axis=-1)
    np.testing.assert_allclose(value(z_s, z_t), t**2 * kl.mean(), rtol=1e-5)
    student, teacher = jax.grad(value, argnums=(0, 1))(z_s, z_t)
    np.testing.assert_allclose(student, t * (p - q) / 5, atol=1e-6)
    assert not teacher.any()
    # Also through the custom rule: the second derivative is T_t / T_s of the softmax's.
    hessian = jax.hessian(lambda z: value(z[None], z_t[:1]))(z_s[0])
    expected = np.diag(p[0]) - np.outer(p[0], p[0])
    np.testing.assert_allclose(hessian, expected, atol=1e-6)


def test_extreme_logits_and_masks():
    z_t = jnp.array([[1e4, 0.0, -jnp.inf], [0.0, 1.0, 2.0]])
    z_s = jnp.array([[1e4, 0.0, 0.0], [2.0, 1.0, 0.0]])
    assert jnp.isfinite(merging.distillation_loss(z_s, z_t))
    first, second = (
        merging.distillation_loss(z_s[i : i + 1], z_t[i : i + 1]) for i in (0, 1)
    )
    found = merging.distillation_loss(z_s, z_t, mask=jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(found, second, rtol=1e-6)
    half = merging.distillation_loss(z_s.astype(jnp.bfloat16), z_t)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(
        merging.distillation_loss(z_s, z_t), (first + second) / 2, rtol=1e-6
    )


@pytest.mark.slow
def test_a_higher_student_temperature_multiplies_the_margins(draw):
    """z_s = (T_s / T_t) z_t at the optimum, up to a constant for each example."""
    z_t = draw(4, 3) * 0.3
    tx = optax.adam(0.05)

    def step(_, carry):
        z_s, state = carry
        grads = jax.grad(merging.distillation_loss)(
            z_s, z_t, teacher_temperature=1.0, student_temperature=10.0
        )
        updates, state = tx.update(grads, state)
        return optax.apply_updates(z_s, updates), state

    z_s, _ = jax.jit(lambda z: jax.lax.fori_loop(0, 2000, step, (z, tx.init(z))))(
        jnp.zeros_like(z_t)
    )
    centred = [z - z.mean(axis=1, keepdims=True) for z in (z_s, z_t)]
    np.testing.assert_allclose(centred[0], 10 * centred[1], atol=0.02)


HEAD = np.random.default_rng(9).normal(size=(8, 4)).astype(np.float32)


def apply_fn(params, x_BD, key=None):
    hidden = jnp.tanh(x_BD @ params["w"] + params["b"])
    if key is not None:
        hidden = hidden * jax.random.bernoulli(key, 0.5, hidden.shape) * 2
    return hidden @ HEAD


def source(draw, dtype="float32", size=1.0):
    base = {"w": draw(6, 8).astype(dtype), "b": jnp.zeros(8, dtype), "n": jnp.array(3)}
    delta = {"w": size * draw(6, 8, seed=1), "b": size * draw(8, seed=2)}
    model = {
        "w": (base["w"] + delta["w"]).astype(dtype),
        "b": (base["b"] + delta["b"]).astype(dtype),
        "n": jnp.array(4),
    }
    return base, model, [draw(32, 6, seed=s) for s in (3, 4)]


@pytest.mark.parametrize(
    "norm_mode", ["penalty", pytest.param("none", marks=pytest.mark.slow)]
)
def test_equal_models_have_no_loss_and_no_step(draw, norm_mode):
    base, model, batches = source(draw)
    result = merging.distill_task_vector(
        apply_fn,
        base,
        model,
        batches,
        steps=2,
        optimizer=optax.sgd(1.0),
        teacher_temperature=5.0,
        student_temperature=5.0,
        norm_mode=norm_mode,
    )
    assert result.history["loss"].tolist() == [0.0, 0.0]
    assert result.history["norm"][0] == result.history["norm"][1]
    assert result.history["teacher_agreement"].tolist() == [1.0, 1.0]
    expected = merging.task_vector(base, model)
    for path in ("w", "b"):
        np.testing.assert_allclose(result.task_vector[path], expected[path], atol=1e-6)


@pytest.fixture(scope="module")
def by_beta(draw):
    """Results at kappa = 0.4 by beta, the source, and its own vector."""
    base, model, batches = source(draw)
    results = {
        beta: merging.distill_task_vector(
            apply_fn,
            base,
            model,
            batches,
            kappa=0.4,
            beta=beta,
            teacher_temperature=10.0,
            student_temperature=10.0,
            steps=60,
            optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01)),
            log_every=20,
        )
        for beta in (0.0, 0.1, 1.0)
    }
    return results, base, model


def test_norms_start_at_kappa_and_drift_less_with_beta(by_beta):
    results, base, model = by_beta
    target = 0.4 * float(merging.norm(merging.task_vector(base, model)))
    drifts = []
    for result in results.values():
        np.testing.assert_allclose(result.history["norm"][0], target, rtol=1e-5)
        drifts.append(float(merging.norm(result.task_vector)) / target)
    assert drifts[0] > drifts[1] > drifts[2] > 1
    first = results[0.0]
    assert first.history["step"].tolist() == [0, 20, 40, 59]
    assert first.history["loss"][-1] < 0.2 * first.history["loss"][0]
    assert (
        first.history["teacher_agreement"][-1] > first.history["teacher_agreement"][0]
    )
    assert set(first.history) == {
        "step",
        "loss",
        "norm",
        "entropy",
        "teacher_agreement",
    }
    assert int(first.params["n"]) == 3


def test_parameters_are_the_base_and_the_vector(by_beta):
    results, base, _ = by_beta
    found = results[0.1]
    again = merging.apply_task_vector(base, found.task_vector)
    jax.tree.map(np.testing.assert_array_equal, found.params, again)


@pytest.mark.slow
def test_projection_keeps_the_norm_exactly(draw):
    base, model, batches = source(draw)
    target = 0.3 * float(merging.norm(merging.task_vector(base, model)))
    result = merging.distill_task_vector(
        apply_fn,
        base,
        model,
        batches,
        target_norm=target,
        norm_mode="project",
        steps=10,
        optimizer=optax.adam(0.03),
        log_every=1,
    )
    np.testing.assert_allclose(result.history["norm"], target, rtol=1e-5)
    assert result.history["loss"][-1] < result.history["loss"][0]
    np.testing.assert_allclose(result.kappa, 0.3, rtol=1e-5)


@pytest.mark.slow
def test_a_bfloat16_base_is_distilled_in_float32(draw):
    """Steps far below a bfloat16 rounding add up in the vector."""
    base, model, batches = source(draw, "bfloat16", 0.5)
    result = merging.distill_task_vector(
        apply_fn,
        base,
        model,
        batches,
        kappa=0.5,
        steps=4,
        optimizer=optax.sgd(1e-6),
        norm_mode="none",
    )
    assert result.params["w"].dtype == jnp.bfloat16
    assert result.task_vector["w"].dtype == jnp.float32
    start = 0.5 * merging.task_vector(base, model)["w"]
    assert 0 < float(jnp.abs(result.task_vector["w"] - start).max()) < 1e-3


@pytest.mark.slow
def test_many_tasks_in_one_program(draw):
    """`distill` is pure: over tasks it is `vmap`, and each is what it is alone."""
    base, model, batches = source(draw)
    tv = merging.task_vector(base, model)
    both = merging.stack([tv, merging.scale(tv, 0.5)])
    settings = merging.Distillation(0.5, 10.0, 10.0, 0.1)
    inputs = jnp.stack(batches * 2)

    def one(tv):
        return merging.distill(apply_fn, base, tv, inputs, settings, optax.sgd(0.1))

    found, history = jax.jit(jax.vmap(one))(both)
    assert history["loss"].shape == (2, 4)
    alone = merging.distill_task_vector(
        apply_fn,
        base,
        model,
        batches,
        kappa=0.5,
        teacher_temperature=10.0,
        student_temperature=10.0,
        optimizer=optax.sgd(0.1),
        steps=4,
        log_every=3,
    )
    np.testing.assert_allclose(found["w"][0], alone.task_vector["w"], atol=1e-5)


@pytest.mark.slow
def test_dropout_of_the_student_and_a_pull_after_the_optimizer(draw):
    base, model, batches = source(draw)

    def run(key, decoupled=None):
        return merging.distill_task_vector(
            apply_fn,
            base,
            model,
            batches,
            kappa=0.5,
            steps=3,
            key=key,
            optimizer=optax.adam(0.01),
            decoupled=decoupled,
        )

    same = [run(jax.random.key(s)).task_vector["w"] for s in (0, 0, 1)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()
    plain, pulled = run(None), run(None, 0.01)
    assert (plain.task_vector["w"] != pulled.task_vector["w"]).any()
    assert plain.history["loss"][0] == pulled.history["loss"][0]


def test_what_is_refused_and_what_is_skipped(draw):
    base, model, batches = source(draw)
    with pytest.raises(ConfigError, match="keep one"):
        merging.distill_task_vector(
            apply_fn, base, model, batches, kappa=0.5, target_norm=1.0
        )
    with pytest.raises(ConfigError, match="ended after 2 of 5"):
        merging.distill_task_vector(apply_fn, base, model, iter(batches), steps=5)
    with pytest.raises(ConfigError, match="several shapes"):
        uneven = [batches[0], batches[1][:5]]
        merging.distill_task_vector(apply_fn, base, model, uneven, steps=2)
    with pytest.warns(JoptWarning, match="stretches"):
        merging.distill_task_vector(apply_fn, base, model, batches, kappa=2.0, steps=0)
    with pytest.warns(JoptWarning, match="zero"):
        result = merging.distill_task_vector(
            apply_fn, base, base, batches, target_norm=1.0
        )
    assert result.kappa == 1.0 and not result.task_vector["w"].any()
    rescaled = merging.distill_task_vector(
        apply_fn, base, model, batches, kappa=0.5, steps=0
    )
    expected = 0.5 * merging.task_vector(base, model)["w"]
    np.testing.assert_array_equal(rescaled.task_vector["w"], expected)
    with pytest.raises(ConfigError, match="no others"):
        merging.condition_all([apply_fn], base, [model], [batches])


@pytest.mark.slow
def test_only_harmful_sources_are_conditioned(draw):
    base, model, batches = source(draw)
    tv = merging.task_vector(base, model)
    models = [merging.apply_task_vector(base, tv, s) for s in (1.0, 1.1, 6.0, 0.02)]
    entropies = [
        float(jnp.mean(merging.entropy(apply_fn(m, jnp.stack(batches)))))
        for m in models
    ]
    order = np.argsort(entropies)
    threshold = (entropies[order[-1]] + entropies[order[-2]]) / 2
    found = merging.condition_all(
        [apply_fn] * 4,
        base,
        models,
        [batches] * 4,
        entropy_threshold=threshold,
        steps=2,
        optimizer=optax.sgd(0.01),
    )
    norms = [float(merging.norm(merging.task_vector(base, m))) for m in models]
    long, unsure = 2, int(order[-1])
    for task, result in enumerate(found):
        assert bool(result.history) == (task in (long, unsure))
    expected = np.mean([n for t, n in enumerate(norms) if t != long]) / norms[long]
    np.testing.assert_allclose(found[long].kappa, expected, rtol=1e-5)
    assert found[0].params is models[0]


def test_an_optimizer_that_asks_for_gradients_elsewhere_gets_those_of_the_batch():
    """SAM on b x^2 / 2: from 1, the gradient at 1.5 is 1.5 b."""
    tx = jopt.sharpness_aware(optax.sgd(0.1), jopt.l2_ascent(0.5))
    start, batches = jnp.array([1.0]), jnp.array([2.0])

    def loss(x, b, _):
        return b * jnp.sum(x**2) / 2, {}

    (x, _), _ = descend(loss, (start, tx.init(start)), batches, tx)
    np.testing.assert_allclose(x, [1 - 0.1 * 1.5 * 2], rtol=1e-6)


def test_the_diagnosis_names_source_figure_and_remedy():
    rows = np.eye(5, dtype=np.float32)
    rows[2] *= 9
    rows[4] = rows[0]
    rows[3] = 0
    found = merging.diagnose(
        {"w": jnp.array(rows)}, [0.1, 0.9, 0.9, 0.1, 0.1], names=list("abcde")
    )
    assert (found.too_long, found.unsure) == ((2,), (1, 2))
    text = "\n".join(found.findings)
    assert len(found.findings) == 5
    assert "c: its task vector has norm 9, 9 times the median" in text
    assert "target_norm=0.75" in text
    assert "b: its predictions have an entropy of 0.9 nats" in text
    assert "student_temperature=10) together with the shorter norm" in text
    assert "d: its task vector is zero" in text
    assert "a and e: their task vectors have cosine 1.00" in text
    assert merging.diagnose({"w": jnp.eye(3)}).findings == ()
    with pytest.raises(ConfigError, match="3 tasks need 3 names"):
        merging.diagnose({"w": jnp.eye(3)}, names=["a"])
