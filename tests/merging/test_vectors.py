"""Task vectors: dtypes, leaves that take no part, trees that do not fit, algebra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import merging
from jopt.errors import ConfigError, JoptWarning

BASE = {
    "a": {"w": jnp.array([[1.0, -2.0], [3.0, 4.0]])},
    "half": jnp.array([1.0, 2.0], jnp.bfloat16),
    "step": jnp.array(7, jnp.int32),
    "key": jax.random.key(0),
}
MODEL = {
    "a": {"w": jnp.array([[5.0, 2.0], [3.0, -4.0]])},
    "half": jnp.array([3.0, 2.0], jnp.bfloat16),
    "step": jnp.array(900, jnp.int32),
    "key": jax.random.key(1),
}


def test_there_and_back_is_exact_and_integers_stay():
    tv = merging.task_vector(BASE, MODEL)
    assert isinstance(tv["step"], optax.MaskedNode)
    assert isinstance(tv["key"], optax.MaskedNode)
    assert tv["half"].dtype == jnp.float32
    back = merging.apply_task_vector(BASE, tv)
    for path in ("a", "half"):
        jax.tree.map(np.testing.assert_array_equal, back[path], MODEL[path])
    assert back["half"].dtype == jnp.bfloat16
    assert int(back["step"]) == 7 and back["key"] is BASE["key"]


def test_there_and_back_within_two_roundings(draw):
    base, model = draw(100), draw(100, seed=1)
    back = merging.apply_task_vector(base, merging.task_vector(base, model))
    bound = 2 * jnp.finfo(jnp.float32).eps * jnp.maximum(abs(base), abs(model))
    assert (jnp.abs(back - model) <= bound).all()


def test_bfloat16_is_subtracted_in_float32():
    """In bfloat16 the mean of two steps of 1 ulp would be lost."""
    base = {"w": jnp.array([256.0], jnp.bfloat16)}
    models = [{"w": jnp.array([x], jnp.float32)} for x in (256.5, 257.5)]
    tv = merging.task_vector(base, models[0])
    assert tv["w"].tolist() == [0.5] and tv["w"].dtype == jnp.float32
    merged = merging.merge(base, models, merging.task_arithmetic())
    assert merged["w"].tolist() == [258.0] and merged["w"].dtype == jnp.bfloat16


def test_float64_stays_float64():
    with jax.enable_x64(True):
        base = {"w": jnp.array([1.0], jnp.float64), "v": jnp.array([1.0], jnp.float32)}
        model = {"w": jnp.array([1.0 + 1e-12]), "v": jnp.array([2.0], jnp.float32)}
        tv = merging.task_vector(base, model)
        assert (tv["w"].dtype, tv["v"].dtype) == (jnp.float64, jnp.float32)
        np.testing.assert_allclose(tv["w"], 1e-12, rtol=1e-3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": {"w": jnp.ones((2, 2))}, "b": jnp.ones(3)}, r"other tree: b"),
        ({"a": {}}, r"only in the base: a/w"),
        ({"a": {"w": jnp.ones((2, 3))}}, r"a/w: shape \(2, 2\).*\(2, 3\)"),
        ({"a": {"w": jnp.full((2, 2), jnp.nan)}}, r"NaN or infinity in: a/w"),
    ],
)
def test_what_does_not_fit_is_named(other, message):
    with pytest.raises(ValueError, match=message):
        merging.task_vector({"a": {"w": jnp.zeros((2, 2))}}, other)


def test_what_two_trees_have_in_common():
    base = {"w": jnp.zeros(2), "head": jnp.zeros(3), "old": jnp.zeros(1)}
    model = {"w": jnp.ones(2), "head": jnp.ones(4), "new": jnp.ones(1)}
    tv, skipped = merging.task_vector(base, model, strict=False)
    assert skipped == ["head", "old", "new"]
    assert merging.leaf_norms(tv).keys() == {"w"}
    with pytest.warns(JoptWarning, match="head, new, old"):
        merged = merging.merge(base, [model], merging.average(), strict=False)
    assert merged["head"] is base["head"] and merged["w"].tolist() == [1.0, 1.0]


def test_where_takes_leaves_out_and_the_base_stays():
    merged = merging.merge(
        BASE, [MODEL], merging.average(), where=lambda path, leaf: path != "half"
    )
    assert merged["half"] is BASE["half"]
    np.testing.assert_array_equal(merged["a"]["w"], MODEL["a"]["w"])


def test_a_vector_that_does_not_fit_the_base():
    with pytest.raises(ConfigError, match=r"v .*not in.*w \(3,\) against \(2,\)"):
        merging.apply_task_vector(
            {"w": jnp.ones(2)}, {"w": jnp.ones(3), "v": jnp.ones(1)}
        )


def test_stack_and_back_norms_and_cosines():
    tvs = [{"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}, {"a": jnp.zeros(2)}]
    tvs[1]["b"] = jnp.array([-2.0])
    stacked = merging.stack(tvs)
    for tv, back in zip(tvs, merging.unstack(stacked), strict=True):
        jax.tree.map(np.testing.assert_array_equal, tv, back)
    found = [float(merging.norm(tvs[0], ord)) for ord in (1, 2, np.inf)]
    assert found == [7.0, 5.0, 4.0]
    assert float(merging.dot(*tvs)) == -8.0
    np.testing.assert_allclose(
        merging.cosine_matrix(stacked), [[1, -0.8], [-0.8, 1]], rtol=1e-6
    )
    assert merging.task_norms(stacked).tolist() == [5.0, 2.0]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_norms_and_cosines_at_any_scale_and_of_zero(size):
    stacked = {"w": size * jnp.array([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]])}
    np.testing.assert_allclose(
        merging.cosine_matrix(stacked),
        [[1, 0.96, 0], [0.96, 1, 0], [0, 0, 0]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(merging.task_norms(stacked) / size, [5, 5, 0], rtol=1e-6)


def test_running_statistics_are_never_subtracted():
    def variables(mean, variance):
        return {
            "params": {"w": jnp.array([mean])},
            "batch_stats": {"var": jnp.array([variance]), "count": jnp.array(3)},
        }

    base, models = variables(0.0, 4.0), [variables(1.0, 1.0), variables(3.0, 2.0)]
    with pytest.raises(ConfigError, match="merge_variables"):
        merging.merge(base, models, merging.task_arithmetic())
    arguments = (base, models, merging.task_arithmetic())
    with pytest.raises(ConfigError, match="no policy"):
        merging.merge_variables(*arguments)

    def statistics(policy):
        return merging.merge_variables(*arguments, scale=2.0, batch_stats=policy)

    assert statistics("base")["batch_stats"] is base["batch_stats"]
    found = statistics("average")
    assert found["params"]["w"].tolist() == [8.0]
    assert found["batch_stats"]["var"].tolist() == [1.5]
    assert int(found["batch_stats"]["count"]) == 3
    found = statistics(lambda params: {"var": params["w"] + 1})
    assert found["batch_stats"]["var"].tolist() == [9.0]


def test_empty_trees_are_merged_to_empty_trees():
    assert merging.merge({}, [{}, {}], merging.ties(), scale=0.5) == {}
    assert float(merging.norm({})) == 0.0
