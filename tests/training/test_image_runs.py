"""Runs on images: full-scale configs, keys that cannot work, corrupted copies."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from jopt import data, models
from jopt.__main__ import main
from jopt.errors import ConfigError
from jopt.training import presets
from jopt.training._config import default_config
from jopt.training._config_checks import validate
from jopt.training._evaluation import corrupted, shifted, totals
from jopt.training._plan import make_plan, resolve
from jopt.training.main import main as train
from jopt.tree import count

FULL = Path(__file__).parents[2] / "configs/full"
# Parameters by hand, see tests/models/test_images.py.
TRANSFORMER = 12 * 12 * 128**2 + 25 * 128 + 2 * 256 * 128
PERCEPTRON = 3073 * 4096 + 4097 * 10


def gpt_neo(layers: int, width: int, context: int) -> int:
    """Of the vocabulary 50257 with a tied head: biases but for q, k, v; two norms."""
    block = 12 * width**2 + (1 + 4 + 1) * width + 4 * width
    return layers * block + (50257 + context + 2) * width


def resnet50(classes: int) -> int:
    """The 25,557,032 of ImageNet with another head."""
    return 25_557_032 + 2049 * (classes - 1000)


def distilbert(classes: int) -> int:
    """30,522 tokens, 512 positions, six blocks of 12 D^2 + 13 D, two layers more."""
    width = 768
    blocks = 6 * (12 * width**2 + 13 * width)
    encoder = (30_522 + 512 + 2) * width + blocks
    assert encoder == 66_362_880
    return encoder + (width + 1) * width + (width + 1) * classes


SIZES = {
    "sa_sam_cifar10:vgg19,released": (20_040_522, 35_157, 256),
    "sa_sam_cifar10:vgg19,paper": (20_040_522, 35_157, 256),
    "sa_sam_cifar10:vit,sa_sgd": (21_342_346, 35_157, 256),
    "sa_sam_cifar10:vit,momentum": (21_342_346, 35_157, 256),
    "no_wrong_turns:resnet18": (11_173_962, 35_157, 128),
    "no_wrong_turns:resnet18,sgd,512": (11_173_962, 8_790, 512),
    "no_wrong_turns:resnet18_imagenet": (11_689_512, 1_787_579, 128),
    "no_wrong_turns:resnet50_imagenet,sgd,256": (25_557_032, 893_790, 256),
    "no_wrong_turns:mlp,adam": (PERCEPTRON, 35_157, 128),
    "no_wrong_turns:transformer": (TRANSFORMER, 23_938, 32),
    "palsgd:gpt_neo_8m": (8_054_656, 5_000, 2_048),
    "palsgd:gpt_neo_8m,diloco": (8_054_656, 5_000, 2_048),
    "palsgd:gpt_neo_125m": (gpt_neo(12, 768, 1024), 5_000, 2_048),
    "palsgd:gpt_neo_125m,none": (gpt_neo(12, 768, 1024), 5_000, 2_048),
    "palsgd:resnet50": (25_557_032, 111_724, 1_024),
    "palsgd:resnet50,local_sgd": (25_557_032, 111_724, 1_024),
    "domainbed:pacs": (resnet50(7), 5_001, 96),
    "domainbed:vlcs,irm": (resnet50(5), 5_001, 96),
    "domainbed:office_home,group_dro": (resnet50(65), 5_001, 96),
    "domainbed:terra_incognita,and_mask": (resnet50(10), 5_001, 96),
    "domainbed:domain_net,coral": (resnet50(345), 5_001, 160),
    "wilds:civilcomments,group_dro": (distilbert(2), 80_000, 16),
    "wilds:amazon,irm": (distilbert(5), 80_000, 48),
}


QUICK = (
    "sa_sam_cifar10:vgg19,released",
    "no_wrong_turns:transformer",
    "palsgd:gpt_neo_8m",
    "domainbed:pacs",
    "wilds:civilcomments,group_dro",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in SIZES],
)
def test_full_scale_configs_have_the_published_sizes(name):
    file, _, arg = name.partition(":")
    config = runpy.run_path(str(FULL / f"{file}.py"))["get_config"](arg)
    validate(config)
    model = models.build(config.model)
    params, steps, rows = SIZES[name]
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), None)
    assert count(shapes) == params
    assert (config.train.steps, config.train.batch_size) == (steps, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_full_scale_configs_can_be_planned(name, capsys, monkeypatch):
    monkeypatch.chdir(FULL.parents[1])
    file, _, arg = name.partition(":")
    assert train([f"--config=configs/full/{file}.py:{arg}", "--dry_run"]) == 0
    assert f"{SIZES[name][0]:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.name", "mnist5k", r"model\.image_size is 8; .*\(28, 28, 1\).* be 28"),
        ("model.num_classes", 9, "model.num_classes is 9; .* has 10 classes"),
        ("objective.loss", "sqared", "objective.loss is 'sqared'.*squared"),
        ("objective.label_smoothing", 1.0, r"it lies in \[0, 1\)"),
        ("data.augment", "mirror", "data.augment is 'mirror'"),
        ("eval.corruptions", ("blurr",), "eval.corruptions has 'blurr'.*blur"),
        ("eval.shifts", ("imagenet_a",), r"eval\.shifts has 'imagenet_a'; known .*all"),
        ("eval.severities", (0, 1), r"eval\.severities is \(0, 1\)"),
    ],
)
def test_keys_of_images_that_cannot_work(key, value, message):
    config = presets.images("cnn", "digits")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_keys_of_images_are_not_for_text():
    config = default_config()
    config.eval.corruptions = ("blur",)
    config.objective.loss = "squared"
    with pytest.raises(ConfigError, match=r"(?s)objective\.loss.*eval\.corruptions"):
        validate(config)


@pytest.fixture(scope="module")
def plan():
    config = presets.images("mlp", "digits", "micro")
    config.model.update(hidden_dim=8, num_layers=1)
    config.train.compute_dtype = "float32"
    config.eval.update(corruptions=("contrast", "rotation"), severities=(1, 5))
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "sgd", 0.1)
    return make_plan(resolve(config))


def test_corrupted_copies_are_evaluated(plan):
    """Each copy as if its images were the split, and the means over them."""
    source = plan.task.load(plan.config)
    state = plan.init()
    found = corrupted(plan.task, plan.sums, state, source.corrupted("test"), plan.put)
    assert list(found)[:3] == [
        f"eval/corrupted/{figure}"
        for figure in ("accuracy", "contrast/accuracy", "rotation/accuracy")
    ]
    each = []
    for name in ("contrast", "rotation"):
        for severity in (1, 5):
            images = data.corrupt(source.splits.test.inputs, name, severity)
            batch = source.splits.test.rows(np.arange(180), lambda _, x=images: x)
            sums = totals(plan.sums, state, [batch], plan.put)
            expected = plan.task.results(sums)
            for figure in ("accuracy", "ece", "nll"):
                key = f"eval/corrupted/{name}/{severity}/{figure}"
                assert found[key] == pytest.approx(expected[f"eval/{figure}"], rel=1e-6)
            each.append(expected["eval/accuracy"])
    assert found["eval/corrupted/accuracy"] == pytest.approx(np.mean(each))
    assert found["eval/corrupted/contrast/accuracy"] == pytest.approx(np.mean(each[:2]))
    assert corrupted(plan.task, plan.sums, state, (), plan.put) == {}


def test_other_test_sets_are_evaluated(plan):
    """One with all classes; one of three, among whose logits the model chooses."""
    source = plan.task.load(plan.config)
    # A head that is not zero, so that classes differ.
    state = plan.init()
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: x + 0.1 * draw(size=x.shape), state.params)
    state = state._replace(params=params)
    split, classes = source.splits.test, np.array([7, 2, 4])
    rows = np.flatnonzero(np.isin(split.targets, classes))
    batch = split.rows(rows)
    few = batch | {
        "targets": np.argsort(classes)[np.searchsorted([2, 4, 7], batch["targets"])]
    }
    shifts = [("all", None, [split.rows(np.arange(180))]), ("few", classes, [few])]
    found = shifted(plan.task, plan.sums_among, state, iter(shifts), plan.put)
    logits, _, _ = plan.model.apply(
        state.params, state.model_state, batch, key=None, train=False
    )
    masked = np.full(logits.shape, -np.inf)
    masked[:, classes] = np.asarray(logits, np.float64)[:, classes]
    p = np.exp(masked) / np.exp(masked).sum(1, keepdims=True)
    right = p.argmax(1) == batch["targets"]
    nll = -np.log(p[np.arange(len(p)), batch["targets"]]).mean()
    assert found["eval/shifted/few/accuracy"] == pytest.approx(right.mean())
    assert found["eval/shifted/few/nll"] == pytest.approx(nll, rel=1e-5)
    assert found["eval/shifted/few/examples"] == len(rows) < 180
    whole = totals(plan.sums, state, [split.rows(np.arange(180))], plan.put)
    expected = plan.task.results(whole)
    for figure in ("accuracy", "ece", "nll"):
        assert found[f"eval/shifted/all/{figure}"] == expected[f"eval/{figure}"]
    assert (np.asarray(logits).argmax(1) == batch["targets"]).mean() != right.mean()


def test_the_squared_loss_is_what_is_evaluated(plan):
    config = plan.config.copy_and_resolve_references()
    config.objective.loss = "squared"
    plan = make_plan(config)
    source = plan.task.load(plan.config)
    added = totals(plan.sums, plan.init(), source.evaluation(whole=True), plan.put)
    result = plan.task.results(added)
    assert result["eval/loss"] == pytest.approx(0.5)
    assert result["eval/nll"] == pytest.approx(np.log(10))
    assert result["eval/ece"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_run_reports_calibration_and_corruptions(
    make_training, tmp_path, capsys, monkeypatch
):
    """From training to `evaluate`, with a state of BatchNorm in the checkpoint."""
    training = make_training(
        tmp_path,
        "--config=configs/images.py:resnet,digits,micro",
        "--config.train.steps=30",
        "--config.eval.corruptions=('blur',)",
        "--config.eval.severities=(1,4)",
        "--config.data.augment=crop",
        "--config.train.accumulation=2",
    )
    done = training.run()
    assert done.returncode == 0, done.stderr
    result = training.status()["result"]
    assert 0 <= result["eval/ece"] <= 1 and 0 < result["eval/brier"] < 2
    both = [result[f"eval/corrupted/blur/{s}/accuracy"] for s in (1, 4)]
    assert result["eval/corrupted/accuracy"] == pytest.approx(np.mean(both))
    assert (tmp_path / "run/report.html").exists()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ECE {result['eval/ece']:.4f} (15 bins)" in lines[1]
    assert lines[2].startswith(f"corrupted: {np.mean(both):.4f} accuracy")
    assert lines[3].split() == ["blur", *(f"{x:.4f}" for x in (np.mean(both), *both))]
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "--split=test", "--corruptions=contrast"]) == 0
    assert "\n  contrast" in capsys.readouterr().out
    assert main(["evaluate", run, "--corruptions=contrsat"]) == 2
    assert "did you mean 'contrast'" in capsys.readouterr().err
    # A shift that is none.
    digits = data.IMAGE_SETS["digits"]
    same = data.Shift(data.load_digits(tmp_path).test, None)
    shifts = {"the_same": lambda names, tfds_dir: same}
    monkeypatch.setitem(data.IMAGE_SETS, "digits", digits._replace(shifts=shifts))
    assert main(["evaluate", run, "--split=test", "--shifts=all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = lines[0].split()[2]
    assert lines[-1].split()[:3] == ["the_same", accuracy, "accuracy,"]
    assert lines[-1].endswith(" on 180 examples")
    assert main(["evaluate", run, "--shifts=the_smae"]) == 2
    assert "did you mean 'the_same'" in capsys.readouterr().err
