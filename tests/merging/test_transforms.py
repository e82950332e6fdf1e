"""What every method obeys, the order of chains, the registry and the search."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec

T = 3
SPECS = {"stack": MatrixSpec((1,), (2,))}
KEY = jax.random.key(3)
SHAPES = {"w": (6, 7), "stack": (2, 6, 7), "b": (5,)}
MATRICES = {"tsv_m", "iso_c", "iso_cts", "regmean", "wudi", "wudi_closed"}
METHODS = {name: (name, {}) for name in merging.METHODS} | {
    "ties_leaf": ("ties", {"scope": "leaf", "function": "max"}),
    "wudi_closed": ("wudi", {"closed_form": True}),
}


QUICK = {"ties", "dare_linear", "tsv_m"}
each_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in METHODS
    ],
)


def method(name):
    registered, kwargs = METHODS[name]
    specs = {"matrix_specs": SPECS} if name in MATRICES else {}
    return merging.make_transform(registered, {**kwargs, **specs})


@functools.cache
@jax.ensure_compile_time_eval()
def tasks():
    rng = np.random.default_rng(0)
    return {
        path: jnp.asarray(rng.normal(size=(T, *shape)), jnp.float32)
        for path, shape in SHAPES.items()
    }


@functools.cache
@jax.ensure_compile_time_eval()
def aux():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(T, 2, 20, 6))

    def one_fisher():
        return {path: jnp.asarray(rng.random(shape)) for path, shape in SHAPES.items()}

    return {
        "fishers": [one_fisher() for _ in range(T)],
        "grams": [
            merging.gram_matrices([{"w": jnp.asarray(w), "stack": jnp.asarray(stack)}])
            for w, stack in inputs
        ],
    }


def run(name, stacked=None, order=range(T), weights=None):
    chosen = list(order)
    stacked = tasks() if stacked is None else stacked
    context = merging.make_context(
        {},
        len(chosen),
        weights=weights,
        key=KEY,
        aux={name: [values[t] for t in chosen] for name, values in aux().items()},
    )
    taken = jax.tree.map(lambda x: x[jnp.array(chosen)], stacked)
    return merging.reduce_tasks(method(name), taken, context)


def close(found, expected, rtol=1e-5, atol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
        found,
        expected,
    )


def run_leaf(name, path):
    """One leaf by itself, as a tool merges that cannot hold all of them."""
    registered, kwargs = METHODS[name]
    if name in MATRICES:
        kwargs = {
            **kwargs,
            "matrix_specs": {k: v for k, v in SPECS.items() if k == path},
        }
    context = merging.make_context({}, T, key=KEY, aux=aux())
    transform = merging.make_transform(registered, kwargs)
    return merging.reduce_tasks(transform, {path: tasks()[path]}, context)[path]


@each_method
def test_scale_order_of_tasks_shapes_and_single_leaves(name):
    by_leaf = method(name).scope == "leaf"
    assert by_leaf == (name not in {"ties", "dare_ties", "consensus_ties", "pcb"})

    @jax.jit
    def variants(stacked):
        found = {"plain": run(name, stacked)}
        if name not in ("pcb", "wudi"):
            scaled = run(name, jax.tree.map(lambda x: 4 * x, stacked))
            found["scaled"] = jax.tree.map(lambda x: x / 4, scaled)
        if not name.startswith("dare"):
            found["ordered"] = run(name, stacked, order=(2, 0, 1))
        if by_leaf:
            found["single"] = {path: run_leaf(name, path) for path in SHAPES}
        return found

    found = variants(tasks())
    plain = found.pop("plain")
    assert jax.tree.map(jnp.shape, plain) == SHAPES
    assert {x.dtype for x in jax.tree.leaves(plain)} == {jnp.dtype("float32")}
    # Polar factors of concatenations that are nearly singular.
    error = 5e-5 if name == "iso_cts" else 1e-5
    for other in found.values():
        close(other, plain, rtol=error, atol=error)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["consensus_ta", "ties", "tsv_m", "wudi"])
def test_jit_and_vmap_over_seeds(name):
    def of(stacked):
        return run(name, stacked)

    found = of(tasks())
    close(jax.jit(of)(tasks()), found)
    seeds = jax.tree.map(lambda x: jnp.stack([2 * x, x]), tasks())
    lanes = jax.jit(jax.vmap(of))(seeds)
    close(jax.tree.map(lambda x: x[1], lanes), found)


SINGLE = {
    "task_arithmetic": {},
    "average": {},
    "ties": {"density": 1.0},
    "tsv_m": {},
    "wudi": {"closed_form": True},
    "dare_linear": {"p": 0.0},
    "fisher": {},
    "regmean": {},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in SINGLE],
)
def test_one_task_is_returned(name):
    one = jax.tree.map(lambda x: x[:1], tasks())
    specs = {"matrix_specs": SPECS} if name in MATRICES else {}
    chosen = merging.make_transform(name, {**SINGLE[name], **specs})
    first = {key: value[:1] for key, value in aux().items()}
    context = merging.make_context({}, 1, key=KEY, aux=first)
    found = jax.jit(lambda x: merging.reduce_tasks(chosen, x, context))(one)
    close(found, jax.tree.map(lambda x: x[0], one), atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["average", "regmean", "fisher", "model_stock", "ties"]
)
def test_equal_tasks_are_returned(name):
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), tasks())
    specs = {"matrix_specs": SPECS} if name in MATRICES else {}
    kwargs = {"density": 1.0} if name == "ties" else specs
    context = merging.make_context({}, T, key=KEY, aux=aux())
    chosen = merging.make_transform(name, kwargs)
    found = jax.jit(lambda x: merging.reduce_tasks(chosen, x, context))(same)
    close(found, jax.tree.map(lambda x: x[0], same), atol=3e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((merging.mean(), merging.trim()), "per_task after reduce"),
        ((merging.mean(), merging.sum()), "has 2 reducers"),
        (
            (merging.leafwise("post", lambda p, x, c: x), merging.mean()),
            "reduce after post",
        ),
    ],
)
def test_a_chain_in_a_wrong_order(parts, message):
    with pytest.raises(ValueError, match=message):
        merging.chain(*parts)


def test_a_chain_without_a_reducer_adds_up_before_post(reduced):
    double = merging.leafwise("post", lambda path, x, context: 2 * x)
    found = reduced(merging.chain(merging.trim(0.5), double), {"w": jnp.ones((2, 2))})
    assert found["w"].tolist() == [4.0, 0.0]
    assert reduced(merging.trim(0.5), {"w": jnp.ones((2, 2))})["w"].tolist() == [
        2.0,
        0.0,
    ]


def test_what_is_done_to_the_merged_vector(reduced):
    stacked = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0]])}

    def first(path, leaf):
        return path == "a"

    def after(step):
        found = reduced(merging.chain(merging.sum(), step), stacked)
        return [x for leaf in found.values() for x in leaf.tolist()]

    assert after(merging.multiply(2)) == [6.0, 0.0, 8.0]
    assert after(merging.multiply(2, where=first)) == [6.0, 0.0, 4.0]
    assert after(merging.clip_norm(2.5)) == [1.5, 0.0, 2.0]
    assert after(merging.clip_norm(6.0)) == [3.0, 0.0, 4.0]
    assert after(merging.keep_leaves(first)) == [3.0, 0.0, 0.0]


def test_a_greedy_soup_leaves_out_what_makes_it_worse():
    models = [{"w": jnp.array(x)} for x in (9.0, 0.5, 1.0, 2.0)]
    soup, chosen = merging.greedy_soup(models, lambda p: -abs(p["w"] - 1.25))
    # 0.75 is worse than 1.0; 1.5 is as good, and stays.
    assert (chosen, float(soup["w"])) == ([2, 3], 1.5)
    with pytest.raises(ConfigError, match="no model"):
        merging.greedy_soup([], lambda p: 0.0)


def test_where_of_a_transform_and_of_a_reducer(reduced):
    stacked = {"a": jnp.array([[1.0], [3.0]]), "b": jnp.array([[1.0], [3.0]])}
    found = reduced(merging.task_arithmetic(where=lambda path, x: path == "a"), stacked)
    assert (found["a"].tolist(), found["b"].tolist()) == ([4.0], [2.0])
    seen = []
    merging.trim(1.0, where=lambda path, x: seen.append(x.shape) or True).fn(
        stacked, merging.make_context({}, 2)
    )
    assert seen == [(1,), (1,)]  # without the axis of tasks


def test_what_a_method_needs_is_asked_for(reduced):
    stacked = {"w": jnp.ones((2, 2))}
    with pytest.raises(ConfigError, match="needs key"):
        reduced(merging.dare_linear(), stacked)
    with pytest.raises(ConfigError, match="needs fishers"):
        reduced(merging.fisher(), stacked)
    with pytest.raises(ConfigError, match=r"1 entries for 2 tasks"):
        reduced(merging.fisher(), stacked, aux={"fishers": [{"w": jnp.ones(2)}]})
    with pytest.raises(ConfigError, match=r"tasks \[1\] has no leaf 'w'"):
        reduced(merging.fisher(), stacked, aux={"fishers": [{"w": jnp.ones(2)}, {}]})
    with pytest.raises(ConfigError, match="expected 2 weights"):
        reduced(merging.average(), stacked, weights=[1.0])
    with pytest.raises(ConfigError, match="add up to 0"):
        reduced(merging.average(), stacked, weights=[1.0, -1.0])


def test_names_and_arguments_of_a_config():
    with pytest.raises(ConfigError, match="did you mean 'tsv_m'"):
        merging.make_transform("tsvm")
    with pytest.raises(ConfigError, match=r"ties.*densty"):
        merging.make_transform("ties", {"densty": 0.2})


@pytest.mark.parametrize("how", ["loop", "map", "vmap"])
def test_search_takes_the_first_best_scale(how):
    base, merged = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, 2.0])}

    def merge_fn(scale):
        return merging.apply_task_vector(base, merged, scale)

    def eval_fn(params):
        return -jnp.abs(jnp.round(params["w"] * 2) / 2 - 1.0)

    best, table = merging.search_scale(merge_fn, eval_fn, how=how)
    assert table["tasks"].shape == (21, 2)
    np.testing.assert_allclose(table["score"], table["tasks"].mean(axis=1), rtol=1e-6)
    assert best == table["scale"][np.argmax(table["score"])] == 0.4
    by_nan, _ = merging.search_scale(
        lambda s: s, lambda s: jnp.where(s < 0.5, jnp.nan, -s), [0.1, 0.5, 0.9], how=how
    )
    assert by_nan == 0.5


def test_search_says_when_nothing_can_be_chosen():
    with pytest.raises(ConfigError, match="NaN"):
        merging.search_scale(lambda s: s, lambda s: np.nan, [0.0, 1.0])
    with pytest.raises(ConfigError, match="grid"):
        merging.search_scale(lambda s: s, lambda s: s, [])


PAGE = (Path(__file__).parents[2] / "docs/merging.md").read_text()


def test_the_page_names_every_method_and_nothing_else():
    table = re.search(r"^## Methods\n(.*?)^### ", PAGE, re.M | re.S).group(1)
    cells = [row.split(" | ")[2] for row in table.splitlines() if row.count(" | ") > 2]
    named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    others = {"greedy_soup", "emr", "adamerging", "knots", "lora_delta", "merge_lora"}
    arcs = {"slerp", "karcher"}
    assert named - {"merge"} == set(merging.METHODS) | others | arcs
    assert others | arcs <= set(merging.__all__)


@pytest.mark.slow
def test_the_code_of_the_page_runs(capsys):
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), {})
    assert "an entropy of 0.7 nats" in capsys.readouterr().out
