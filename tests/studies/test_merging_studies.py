"""The studies of merging: their tasks and losses, whole small ones, and the demands."""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jopt.__main__ import main
from jopt.data._digits import DIGITS
from jopt.data._packaged import read_package
from jopt.merging._matrices import task_matrices, task_specs
from jopt.studies.merging import _sources
from jopt.studies.merging._conditioning import Conditioning, condition
from jopt.studies.merging._demands import conditions, normalised_of
from jopt.studies.merging._encoders import PERCEPTRON, VIT, _vit
from jopt.studies.merging._methods import _reduced
from jopt.studies.merging._model import Model, logits
from jopt.studies.merging._optimizers_table import equal_rates
from jopt.studies.merging._problems import PROBLEMS
from jopt.studies.merging._rows import Cell, Setting, compute
from jopt.studies.merging._settings import SETTINGS
from jopt.studies.merging._sources import Recipe, World
from jopt.studies.merging._tasks import TASKS, load_splits
from jopt.studies.merging.ablations import SWEEPS
from jopt.studies.merging.digits import EXPERIMENT
from jopt.studies.merging.optimizers import RATES
from jopt.tree import named_leaves

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def splits():
    return load_splits(0)


def test_tasks_are_transforms_of_the_digits_in_a_drawn_order(splits):
    rows = read_package(DIGITS)[np.random.RandomState(0).permutation(1797)[297:1197]]
    pixels = (rows[:, :64] / 16).astype(np.float32)
    seen = dict(zip(TASKS, np.asarray(splits.train.inputs), strict=True))
    np.testing.assert_array_equal(splits.train.targets, rows[:, 64])
    np.testing.assert_allclose(seen["identity"], pixels - 0.3, atol=1e-6)
    np.testing.assert_allclose(seen["negative"], 0.7 - pixels, atol=1e-6)
    np.testing.assert_allclose(seen["rot180"], (pixels - 0.3)[:, ::-1], atol=1e-6)
    square = (pixels - 0.3).reshape(-1, 8, 8)
    flipped, turned = (seen[name].reshape(-1, 8, 8) for name in ("flip", "rot90"))
    np.testing.assert_allclose(flipped[:, :, 0], square[:, :, 7], atol=1e-6)
    np.testing.assert_allclose(turned[:, 0], square[:, :, 7], atol=1e-6)
    drawn = np.random.RandomState(123)
    for name in ("permuted_a", "permuted_b", "permuted_c"):
        permuted = (pixels - 0.3)[:, drawn.permutation(64)]
        np.testing.assert_allclose(seen[name], permuted, atol=1e-6)


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(smoothing=0.1), Recipe(focal=3.0), Recipe(mixup=1.0)]
)
def test_the_loss_of_a_recipe_against_numpy(recipe, splits):
    rng = np.random.default_rng(0)
    encoder = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
        for name, shape in {"hidden": (64, 12), "output": (12, 12)}.items()
    }
    head = {"prototypes": rng.normal(size=(10, 12))}
    x, y = np.asarray(splits.train.inputs[0]), np.asarray(splits.train.targets)
    first, second, share = np.arange(5), np.arange(5, 10), 0.3 if recipe.mixup else 1.0

    mixed = np.asarray(share * x[first] + (1 - share) * x[second], np.float64)
    for name, layer in encoder.items():
        mixed = mixed @ layer["kernel"] + layer["bias"]
        mixed = np.maximum(mixed, 0) if name == "hidden" else mixed
    rows = head["prototypes"]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    z = 50 * mixed @ rows.T / np.linalg.norm(mixed, axis=1, keepdims=True)
    logp = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    target = share * np.eye(10)[y[first]] + (1 - share) * np.eye(10)[y[second]]
    target = (1 - recipe.smoothing) * target + recipe.smoothing / 10
    doubt = (1 - np.exp(logp)) ** recipe.focal
    expected = -np.sum(target * doubt * logp, axis=1).mean()

    @jax.jit
    def loss(encoder, head, x, y, draw):
        z = logits(PERCEPTRON.encode, encoder, head, _sources._mixed(x, draw))
        return _sources._loss(z, y, draw, recipe)

    found = loss(encoder, head, x, y, (first, second, share))
    assert found == pytest.approx(expected, rel=1e-4)


def test_only_rescaling_gives_the_mean_norm_of_the_others_and_leaves_them(splits):
    stacked = {"w": jnp.array([[3.0, 4.0], [9.0, 0.0], [0.0, 3.0]])}
    world = World(PROBLEMS["digits"], splits, Model({}, {}))
    settings = Conditioning(kappa=None, steps=0)
    moved = condition(world, stacked, settings, (1,), jax.random.key(0))["w"]
    np.testing.assert_allclose(moved, [[3, 4], [4, 0], [0, 3]], rtol=1e-6)


def test_the_demands_know_good_from_bad():
    good = {
        "original": 0.96,
        "norm mismatch": 0.69,
        "mismatch + DisTaC": 0.95,
        "smoothing 0.1": 0.82,
        "smoothing + DisTaC": 0.97,
    }
    assert all(found.margin >= 0 for found in conditions(good))
    bad = {**dict.fromkeys(good, 0.90), "mismatch + DisTaC": 0.87}
    bad["smoothing + DisTaC"] = 0.87
    assert not any(found.margin >= 0 for found in conditions(bad))


def test_optimizers_are_shown_where_their_sources_are_equally_accurate():
    accuracies = {
        "adamw": {"0.1": 0.90, "0.2": 0.95, "0.3": 0.99},
        "sgd": {"9": math.nan, "1": 0.93, "2": 0.96, "3": 0.98},  # 9 diverged
        "muon": {"5": 0.5},
    }
    rows = [
        {"seed": seed, "optimizer": name, "rate": rate, "conditioning": conditioning}
        | {"reference_validation": value + shift * (conditioning == "none")}
        for name, arm in accuracies.items()
        for rate, value in arm.items()
        for conditioning in ("none", "DisTaC (1,10)")
        for seed, shift in (("0", -0.02), ("1", 0.02))
    ]
    assert equal_rates(rows) == {"adamw": "0.2", "sgd": "2", "muon": "5"}


def test_settings_change_one_thing_each():
    for setting in SETTINGS.values():
        assert setting.sources.long is None or setting.sources.recipe == Recipe()
    for sweep in SWEEPS.values():
        assert len(set(sweep.settings.values())) == len(sweep.settings)


def test_the_transformer_without_its_head_gives_what_the_head_is_given():
    encoder = VIT.init(jax.random.split(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (3, 784))
    head = {"kernel": jnp.linspace(-1, 1, 128)[:, None], "bias": jnp.ones(1)}
    images = {"inputs": x.reshape(3, 28, 28, 1)}
    whole, *_ = _vit().apply(
        {**encoder, "head": head}, {}, images, key=None, train=False
    )
    features = jax.jit(VIT.encode)(encoder, x)
    np.testing.assert_allclose(features @ head["kernel"] + 1, whole, rtol=1e-5)


@pytest.fixture(scope="module")
def two_transformers():
    """A base and two task vectors of random numbers."""
    base = VIT.init(jax.random.split(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return base, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=(2, *leaf.shape)), jnp.float32), base
    )


def test_each_projection_of_attention_is_a_matrix_of_its_own(two_transformers):
    _, stacked = two_transformers
    specs = task_specs(stacked, VIT.matrix_specs())
    names = [f"blocks/{i}/attn/{name}/kernel" for i in range(2) for name in "qkvo"]
    leaves = named_leaves(stacked)
    for name in names:
        assert [x.shape for x in task_matrices(leaves[name], specs[name])] == [
            (1, 2, 128, 128)
        ]
    assert specs.keys() - names == {
        "patches/kernel",
        *(f"blocks/{i}/mlp/{name}/kernel" for i in range(2) for name in ("up", "down")),
    }


@pytest.mark.slow
def test_matrices_of_the_transformer_are_merged_one_by_one(two_transformers):
    base, stacked = two_transformers
    merged = named_leaves(_reduced("iso_c", VIT, base, stacked))
    for path, leaf in merged.items():
        found = named_leaves(stacked)[path]
        if path.endswith("/kernel"):
            u, sizes, vt = np.linalg.svd(np.sum(found, axis=0), full_matrices=False)
            expected = sizes.mean() * u @ vt
        else:
            expected = np.mean(found, axis=0)
        np.testing.assert_allclose(leaf, expected, atol=2e-3, err_msg=path)


@pytest.mark.slow
def test_conditioning_leaves_the_reference_alone():
    """Accuracies are over those of the sources before they were conditioned."""
    spoilt = Conditioning(kappa=0.05, steps=0)
    cells = [
        Cell((), Setting(conditioning=own), 0, 60, ("task_arithmetic",), (0.0, 0.5))
        for own in (None, spoilt)
    ]
    plain, scaled = (compute(cell)[0] for cell in cells)
    assert float(scaled["source_accuracy"]) < float(plain["source_accuracy"]) - 0.1
    over = [
        float(row["absolute"]) / float(row["normalised"]) for row in (plain, scaled)
    ]
    assert over[0] == pytest.approx(over[1], abs=0.01)


@pytest.mark.slow
def test_smoke_from_the_study_to_a_merge_of_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/merging_digits-default"
    line = ["study", "merging_digits", "--size=smoke", f"--workdir={folder}"]
    assert main(line) == 0
    assert "| mismatch + DisTaC" in capsys.readouterr().out
    written = (folder / "rows.csv").read_text()
    assert len(written.splitlines()) == 1 + 3 * 3
    assert main(line) == 0
    assert "rows, " not in capsys.readouterr().out
    assert (folder / "rows.csv").read_text() == written

    config = ROOT / "configs/merge_digits.py"
    header = ast.get_docstring(ast.parse(config.read_text()))
    commands = re.findall(r"^  python -m jopt (merge .*)$", header, re.M)
    assert len(commands) == 2
    for command in commands:
        words = command.replace("configs/", f"{config.parent}/").split()
        grid = "--config.search.grid=(0.0, 0.5, 1.0)"
        assert main([*words, grid, "--json"]) == 0, command
        said = json.loads(capsys.readouterr().out)
        assert len(said["table"]["tasks"][0]) == len(TASKS)
    assert any("identity" in finding for finding in said["findings"]), said


@pytest.mark.slow
def test_smoke_of_the_transformer(tmp_path, capsys):
    line = ["study", "merging_vit", "--size=smoke", f"--workdir={tmp_path}"]
    assert main(line) == 0
    assert "| mismatch + DisTaC" in capsys.readouterr().out
    with (tmp_path / "rows.csv").open(newline="") as file:
        base = [row for row in csv.DictReader(file) if row["method"] == "base"]
    assert [float(row["scale"]) for row in base] == [0, 0]
    assert len({row["absolute"] for row in base}) == 1, "whatever became of the sources"
    saved = load_file(tmp_path / "models/base.safetensors")
    assert saved["encoder/blocks/1/attn/q/kernel"].shape == (128, 128)
    assert saved["heads/prototypes"].shape == (8, 10, 128)


@pytest.mark.slow
def test_smoke_of_the_ablations(tmp_path, capsys):
    line = ["study", "merging_ablations", "--size=smoke", f"--workdir={tmp_path}"]
    assert main(line) == 0
    assert "### rescaling" in capsys.readouterr().out


@pytest.mark.slow
def test_smoke_of_the_optimizers(tmp_path, capsys):
    line = ["study", "mergeability_by_optimizer", "--size=smoke"]
    assert main([*line, f"--workdir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    for name in RATES:
        assert f"| {name}" in said
    assert "nothing can be claimed" in said


@pytest.mark.slow
def test_three_seeds_meet_the_demands():
    """TSV-M; the demands are in `conditions`."""
    wanted = ("original", "norm mismatch", "smoothing 0.1")
    wanted += ("mismatch + DisTaC", "smoothing + DisTaC")
    cells = [
        cell._replace(methods=("tsv_m",))
        for cell in EXPERIMENT.chunks("default").values()
        if dict(cell.labels)["setting"] in wanted
    ]
    rows = [{k: str(v) for k, v in row.items()} for c in cells for row in compute(c)]
    found = conditions(normalised_of(rows))
    assert len(found) == 5
    assert all(condition.margin >= 0 for condition in found), found
