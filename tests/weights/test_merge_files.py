"""What is merged on disk is what is merged in memory, bit for bit, in any layout."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from jopt import merging
from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.training._flags import load_config
from jopt.training._plan import resolve
from jopt.tree import named_leaves
from jopt.weights import (
    default_merge,
    merge_files,
    open_weights,
    planned,
    settings_from,
)
from jopt.weights._figures import Figures
from jopt.weights._threshold import KthLargest
from jopt.weights._views import _of_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def merge(tmp_path):
    """`merge(base, models, **config)`: the file that came out, and the report."""

    def run(base, models, out="out.safetensors", **config):
        whole = default_merge()
        whole.update(base=str(base), models=tuple(models), out=str(tmp_path / out))
        for key, value in config.items():
            whole[key] = value
        settings = settings_from(whole)
        with planned(settings) as plan:
            report = merge_files(settings, plan, lambda text: None)
        weights = open_weights(tmp_path / out)
        found = {name: weights.read(name) for name in weights.leaves}
        weights.close()
        return found, report

    return run


def paths(files):
    return [str(file) for file in files]


def is_param(name):
    return "running" not in name and "num_batches" not in name


def test_torch_files_merged_in_flax_are_the_elementwise_merge_of_numpy(
    torch_files, rules, merge
):
    """Done 3: torch layout -> Flax -> merge -> torch layout."""
    base, *models = map(load_file, torch_files)
    found, report = merge(
        torch_files[0],
        paths(torch_files[1:]),
        names=rules,
        batch_stats="base",
        scale=0.3,
    )
    assert found.keys() == base.keys()
    for name, x in base.items():
        expected = x
        if is_param(name):
            total = (models[0][name] - x) + (models[1][name] - x)
            expected = x + np.float32(0.3) * total
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        # lambda times a sum may be fused with the addition: one unit in the last place.
        np.testing.assert_allclose(found[name], expected, rtol=2e-7, atol=1e-7)
    flat = [
        np.concatenate([(m[k] - base[k]).ravel() for k in base if is_param(k)])
        for m in models
    ]
    assert report.norms == pytest.approx([np.linalg.norm(v) for v in flat], rel=1e-6)
    cosine = flat[0] @ flat[1] / np.prod(report.norms)
    assert report.cosines[0][1] == pytest.approx(cosine, abs=1e-6)
    assert report.metadata["format"] == "pt"


@pytest.mark.slow
def test_the_layout_does_not_change_an_elementwise_merge(torch_files, rules, merge):
    """One file through Flax, the other as it is: the same bits."""
    config = {
        "method": "ties",
        "kwargs": {"density": 0.4, "zero_sign": "positive"},
        "where": ("attn",),
    }
    direct = merge(
        torch_files[0],
        paths(torch_files[1:]),
        "direct.safetensors",
        **config,
    )[0]
    mapped = merge(
        torch_files[0],
        paths(torch_files[1:]),
        "mapped.safetensors",
        names=rules,
        batch_stats="base",
        **config,
    )[0]
    for name, x in direct.items():
        assert np.array_equal(mapped[name], x), name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
def test_a_spectral_merge_is_the_one_of_the_torch_matrices(
    torch_files, rules, merge, method
):
    """q, k and v are matrices of their own, a convolution is (O, I kh kw)."""
    base, *models = map(load_file, torch_files)
    found, _ = merge(
        torch_files[0],
        paths(torch_files[1:]),
        names=rules,
        batch_stats="base",
        method=method,
    )
    transform = merging.make_transform(method)

    def expected(name, pick):
        vectors = [pick(m[name]) - pick(base[name]) for m in models]
        stacked = {"w": jnp.stack([v.reshape(len(v), -1) for v in vectors])}
        merged = merging.reduce_tasks(transform, stacked, merging.make_context({}, 2))
        return pick(base[name]) + np.asarray(merged["w"]).reshape(vectors[0].shape)

    fused = "layers.0.attn.in_proj_weight"
    parts = [(fused, lambda x, i=i: x[6 * i : 6 * i + 6]) for i in range(3)]
    whole = ["stem.weight", "layers.0.attn.out_proj.weight", "layers.0.fc.weight"]
    for name, pick in (*parts, *((name, lambda x: x) for name in whole)):
        np.testing.assert_allclose(pick(found[name]), expected(name, pick), atol=2e-6)
    mean = np.mean([m["layers.0.attn.in_proj_bias"] for m in models], axis=0)
    np.testing.assert_allclose(found["layers.0.attn.in_proj_bias"], mean, atol=1e-6)


def test_flax_names_out_and_files_of_several_formats_in(torch_files, rules, merge):
    flax, _ = merge(
        torch_files[0],
        paths(torch_files[1:2]),
        "flax",
        names=rules,
        batch_stats="average",
        out_names="flax",
    )
    one = load_file(torch_files[1])
    kernel = "params/blocks/0/mlp/kernel"
    np.testing.assert_allclose(flax[kernel], one["layers.0.fc.weight"].T, atol=1e-6)
    assert np.array_equal(flax["batch_stats/norm/var"], one["norm.running_var"])
    assert not any("num_batches" in name for name in flax)
    # Orbax and torch files side by side.
    found, report = merge(
        torch_files[0],
        [str(torch_files[1].parent / "flax"), str(torch_files[1])],
        method="average",
        names=rules,
        batch_stats="base",
    )
    assert report.cosines[0][1] == pytest.approx(1, abs=1e-5)
    name = "layers.0.attn.in_proj_weight"
    np.testing.assert_allclose(found[name], one[name], atol=1e-6)


@pytest.mark.parametrize("function", ["mean", "sum"])
@pytest.mark.parametrize("zero_sign", ["majority", "positive"])
def test_ties_by_passes_over_files_is_ties_in_memory(saved, merge, zero_sign, function):
    """With many equal magnitudes across leaves, and sums that are exactly zero."""
    rng = np.random.default_rng(0)
    shapes = {"a-b/w": (30,), "a/w": (30,), "a/v": (2, 3, 4)}
    base = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    models = [
        {k: rng.integers(-3, 4, x.shape).astype(np.float32) for k, x in base.items()}
        for _ in range(3)
    ]
    nested = [
        {"a-b": {"w": x["a-b/w"]}, "a": {"w": x["a/w"], "v": x["a/v"]}}
        for x in (base, *models)
    ]
    kwargs = {"density": 0.37, "zero_sign": zero_sign, "function": function}
    weights = [1.0, -0.5, 0.5]
    expected = merging.merge(
        nested[0], nested[1:], merging.ties(**kwargs), scale=0.5, weights=weights
    )
    files = [saved(f"m{i}", x) for i, x in enumerate(models)]
    found, report = merge(
        saved("base", base),
        [{"path": str(f), "weight": w} for f, w in zip(files, weights, strict=True)],
        method="ties",
        kwargs=kwargs,
        scale=0.5,
    )
    for path, x in named_leaves(expected).items():
        assert np.array_equal(found[path], x), path
    zeros = [
        np.mean(np.concatenate([x.ravel() for x in m.values()]) == 0) for m in models
    ]
    assert report.sparsity == pytest.approx(zeros)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 700, 1000])
def test_the_kth_largest_is_exact(dtype, k):
    rng = np.random.default_rng(0)
    numbers = np.abs(np.round(rng.normal(size=1000), 1)).astype(dtype)
    numbers *= np.finfo(dtype).tiny  # some become subnormal
    found = KthLargest(k, np.dtype(dtype))
    while not found.done:
        for block in np.split(numbers, [10, 500]):
            found.add(block)
        found.end_sweep()
    expected = np.sort(numbers)[-k]
    assert found.threshold == expected and found.threshold.dtype == dtype
    assert found.ties == k - np.sum(numbers > expected)


def test_a_run_knows_its_matrices(tmp_path):
    config = load_config(str(ROOT / "configs/muon_lm.py:micro"))
    record = f'{{"config": {resolve(config).to_json_best_effort()}}}'
    (tmp_path / "config.json").write_text(record)
    step = tmp_path / "checkpoints" / "5"
    step.mkdir(parents=True)
    specs = _of_run(step)
    assert specs == _of_run(step.parent) == _of_run(tmp_path)
    assert specs["blocks/0/attn/q/kernel"] == MatrixSpec((0,), (1, 2))
    assert _of_run(tmp_path / "other") == {}


def test_a_chain_of_stages_with_a_global_threshold_loads_everything(saved, merge):
    rng = np.random.default_rng(1)
    base = {"a": np.zeros(40, np.float32), "b": np.zeros((3, 4), np.float32)}
    models = [
        {k: rng.normal(size=x.shape).astype("f4") for k, x in base.items()}
        for _ in range(2)
    ]
    files = paths(saved(f"m{i}", x) for i, x in enumerate(models))
    stages = (
        {"name": "trim", "density": 0.25},
        {"name": "elect_sign"},
        {"name": "disjoint_mean"},
    )
    found, _ = merge(saved("base", base), files, stages=stages)
    expected = merging.merge(base, models, merging.ties(0.25))
    for name in base:
        assert np.array_equal(found[name], expected[name])


def test_types_of_leaves(saved, merge):
    """bfloat16 is merged in float32, float64 in float64, the rest is the base's."""
    base = {
        "half": np.full(64, 1.0, ml_dtypes.bfloat16),
        "wide": np.full(3, 1.0),
        "step": np.array(3, np.int32),
        "head": np.ones(2, np.float32),
    }
    model = {
        "half": np.full(64, 1.0078125, ml_dtypes.bfloat16),
        "wide": np.full(3, 1.0 + 1e-12),
        "step": np.array(9, np.int32),
        "head": np.ones(5, np.float32),  # not merged, so it may have another shape
    }
    files = saved("base", base), [str(saved("m", model))] * 2
    found, _ = merge(*files, method="average", keep_base=("^head$",))
    for name in ("half", "wide"):
        assert found[name].dtype == base[name].dtype
        assert np.array_equal(found[name], model[name])
    assert found["step"] == 3 and np.array_equal(found["head"], base["head"])
    assert not jax.config.jax_enable_x64

    wide, _ = merge(
        *files, "f32.safetensors", scale=0.25, dtype="float32", keep_base=("^head$",)
    )
    assert wide["half"].dtype == np.float32, "no bit of lambda is rounded away"
    assert (wide["half"] == np.float32(1 + 0.5 * 0.0078125)).all()
    assert wide["head"].dtype == np.float32 and wide["step"].dtype == np.int32


def test_statistics_need_a_policy(torch_files, rules, merge):
    files = torch_files[0], paths(torch_files[1:])
    with pytest.raises(ConfigError, match=r"has running statistics \(batch_stats/norm"):
        merge(*files, names=rules)
    found, _ = merge(*files, names=rules, batch_stats="average")
    base, one, two = map(load_file, torch_files)
    for name in ("norm.running_mean", "norm.running_var"):
        np.testing.assert_allclose(found[name], (one[name] + two[name]) / 2, rtol=1e-6)
    assert (found["norm.running_var"] >= 0).all()
    assert found["norm.num_batches_tracked"] == base["norm.num_batches_tracked"]


def test_matrix_views_of_a_config_win_over_those_of_two_axes(saved, merge):
    rng = np.random.default_rng(2)
    base = {"q/kernel": np.zeros((4, 2, 3), "f4"), "norms": np.zeros((4, 6), "f4")}
    models = [
        {k: rng.normal(size=x.shape).astype("f4") for k, x in base.items()}
        for _ in range(2)
    ]
    found, _ = merge(
        saved("base", base),
        paths(saved(f"m{i}", x) for i, x in enumerate(models)),
        method="iso_c",
        matrix_specs=(
            {"match": "^q", "reduction_axes": (0,), "output_axes": (1, 2)},
            {"match": "norms"},
        ),
    )
    views = {"q/kernel": MatrixSpec((0,), (1, 2)), "norms": None}
    expected = merging.merge(base, models, merging.iso_c(matrix_specs=views))
    for name in base:
        assert np.array_equal(found[name], expected[name]), name


def test_what_does_not_match_is_named(saved, merge):
    base = saved("base", {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)})
    other = saved("m", {"a": np.ones(4, np.float32), "c": np.ones(2, np.float32)})
    with pytest.raises(ConfigError) as caught:
        merge(base, [str(other)])
    for text in (
        "m.safetensors: a is (4,), in the base (3,)",
        "m.safetensors: b (2,) is only in the base",
        "m.safetensors: c (2,) is not in the base",
    ):
        assert text in str(caught.value)
    more = saved("n", {"a": np.ones(3, np.float32), "b": np.full(2, 3, np.float32)})
    with pytest.raises(ConfigError, match="no leaf is merged of 2"):
        merge(base, [str(other), str(more)], strict=False)
    found, _ = merge(base, [str(more)], strict=False)
    assert found["b"].tolist() == [3, 3]


def test_a_leaf_that_is_not_finite_names_model_and_path(saved, merge, tmp_path):
    base = saved("base", {"w/a": np.ones(3, np.float32)})
    bad = saved("bad", {"w/a": np.array([1, np.nan, 1], np.float32)})
    for method in ("average", "ties"):
        with pytest.raises(ConfigError, match=r"bad \(.*NaN or infinity in: w/a"):
            merge(base, [str(bad)], method=method)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bad.safetensors",
        "base.safetensors",
    ]


def score(params, state):
    """Best where the merged weight is 0.5."""
    assert state == {} and set(params) == {"head", "w"}
    return -jnp.sum((params["w"]["a"] - 0.5) ** 2)


def test_the_scale_can_be_searched(saved, merge, monkeypatch):
    import sys
    import types

    module = types.ModuleType("own_score")
    module.score = score
    monkeypatch.setitem(sys.modules, "own_score", module)
    base = saved("base", {"w.a": np.zeros(3, np.float32), "head": np.ones(2)})
    model = saved("m", {"w.a": np.full(3, 2, np.float32), "head": np.ones(2)})
    found, report = merge(
        base,
        [str(model)],
        keep_base=("head",),
        search={"evaluate": "own_score:score", "grid": (0.0, 0.25, 0.5)},
    )
    assert report.scale == 0.25 and found["w.a"].tolist() == [0.5] * 3
    assert report.table == {"scale": [0, 0.25, 0.5], "score": [-0.75, 0, -0.75]}
    assert report.norms == pytest.approx([np.sqrt(12)])


def test_a_vector_that_is_too_long_is_said():
    figures = Figures(3)
    figures.add(np.diag([1, 1.2, 9]).astype(np.float32), np.zeros(3, np.float32))
    (finding,) = figures.findings(["a", "b", "c"])
    assert finding.startswith("c: its task vector has norm 9, 7.5 times the median")


def test_extreme_scales_and_empty_leaves(saved, merge):
    tiny = np.array([1e-30, -1e-30], np.float32)
    base = {
        "a": np.zeros(2, np.float32),
        "b": np.zeros(2, np.float32),
        "e": np.zeros((0, 3), np.float32),
    }
    models = [{**base, "a": tiny}, {**base, "b": 1e30 * np.ones(2, np.float32)}]
    files = paths(saved(f"m{i}", x) for i, x in enumerate(models))
    found, report = merge(saved("base", base), files)
    assert np.array_equal(found["a"], tiny) and found["e"].shape == (0, 3)
    assert report.norms == pytest.approx([np.sqrt(2) * 1e-30, np.sqrt(2) * 1e30])
    np.testing.assert_allclose(report.cosines, np.eye(2), rtol=1e-12)


def test_the_file_says_where_it_comes_from(torch_files, rules, merge):
    _, report = merge(
        torch_files[0],
        [{"path": str(torch_files[1]), "name": "cars", "weight": 2.0}],
        method="ties",
        kwargs={"density": 0.5},
        where=("cls",),
    )
    weights = open_weights(torch_files[0].parent / "out.safetensors")
    said = weights.metadata
    weights.close()
    assert said == report.metadata
    assert said["method"] == "ties(density=0.5)" and said["scale"] == "1.0"
    (model,) = json.loads(said["models"])
    assert (model["name"], model["weight"]) == ("cars", 2.0)
    assert len(model["sha256"]) == 64 and model["sha256"] != said["base_sha256"]
    assert str(torch_files[0].parent) not in json.dumps(said)
