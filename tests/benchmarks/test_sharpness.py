"""The benchmark of sharpness: forms, rows, and one of its parts on a small task."""

from __future__ import annotations

import pytest

from jopt.training._gradient_counts import gradients_per_step


@pytest.fixture
def small_image(sharpness, monkeypatch):
    monkeypatch.setitem(sharpness.CONFIGS, "image", "configs/images.py:mlp,digits")


@pytest.mark.parametrize("flag", ["--rounds=0", "--threads=3", "--part=slices"])
def test_bad_usage_exits_with_2(sharpness, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        sharpness.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_compare_with_as_many_base_steps_as_gradients(sharpness):
    timing = sharpness.Timing
    timings = {
        "sgd": timing([0.1], [0.1]),
        "sam": timing([0.2], [0.2]),
        "sa_sam": timing([0.4], [0.4]),
        "muon": timing([0.2], [0.2]),
        "muon, sam, spectral": timing([0.3], [0.3]),
    }
    base, sam, sa_sam, muon, spectral = sharpness.step_rows("text", timings)
    assert base == ["text", "sgd", "1", "100.0", "-", "-"]
    assert sam[2:] == ["2", "200.0", "2.000 (2.000-2.000)", "2.10 within"]
    assert sa_sam[2:] == ["3", "400.0", "4.000 (4.000-4.000)", "3.15 ABOVE"]
    assert muon[2:] == ["1", "200.0", "-", "-"]
    assert spectral[2:] == ["2", "300.0", "1.500 (1.500-1.500)", "2.10 within"]


def test_a_firing_of_nineteen_steps_takes_a_twentieth_from_361_on(sharpness):
    timing = sharpness.Timing
    timings = {"sgd": timing([0.1], [0.1]), "trace": timing([1.9], [1.9])}
    ((*_, steps, least),) = sharpness.firing_rows("text", timings)
    assert steps == "19.0" and least == "361"
    assert int(least) == 19 * 19  # so 19 of 380


@pytest.mark.parametrize("form", ["sam", "sa_sam", "muon, sam, spectral"])
def test_a_form_is_the_run_that_it_names(sharpness, small_image, form):
    plan = sharpness.make_plan("image", form)
    _, oracle, whole, base = sharpness.FORMS[form]
    assert plan.config.oracle.name == oracle.get("name", "value_and_grad")
    assert plan.config.optim.whole_tree.optimizer.name == whole.get("name", "none")
    assert base != "muon" or plan.config.optim.rules.matrix.name == "muon"
    batch = sharpness.random_batch(plan)
    assert batch["inputs"].shape == (plan.config.train.batch_size, 8, 8, 1)
    sharpness.step_of(plan)()


def test_gradients_of_a_step_are_those_that_its_config_counts(sharpness):
    for name, form in sharpness.FORMS.items():
        oracle = {f"oracle.{key}": value for key, value in form.oracle.items()}
        whole = {
            f"optim.whole_tree.optimizer.{key}": value
            for key, value in form.whole.items()
        }
        # This one never climbs, which no config can know.
        counted = 1 if form.oracle.get("name") == "ae_sam" else None
        counted = counted or gradients_per_step(oracle | whole)
        assert form.evals == counted, name


@pytest.mark.parametrize(
    "part", ["pairs", pytest.param("curvature", marks=pytest.mark.slow)]
)
def test_parts_run(sharpness, small_image, part):
    table = sharpness.part_rows(part, "image", 1)
    assert {len(row) for row in table} == {len(sharpness.HEADERS[part])}
    assert len(table) >= 2
