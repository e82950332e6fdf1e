"""Made-up layers: what the truth is, and how rules are counted."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jopt.linalg import reference
from jopt.studies.computed._one_step import best_steps
from jopt.studies.computed._spec_sign_figure import RULES
from jopt.studies.computed._spec_sign_table import agreement, read_layers, summarize
from jopt.studies.computed._synthetic_layers import (
    GENERATORS,
    MICROBATCHES,
    Setting,
    make_layer,
    minibatches,
)
from jopt.studies.computed.spec_sign_synthetic import SIZES, chunks


def small(generator, level=2.0, **changes):
    setting = Setting(
        generator,
        fan_in=6,
        fan_out=4,
        batch=64,
        activations=GENERATORS[generator].activations[-1],
        target="dense",
        level=level,
        seed=0,
    )
    return setting._replace(**changes)


@pytest.fixture(scope="module")
def drawn():
    """Of a generator: its layer and many minibatches, drawn once."""
    found = {}

    def draw(name):
        if name not in found:
            layer, kind = make_layer(small(name)), GENERATORS[name].kind
            batch = 0 if kind == "additive" else 64
            x = minibatches(layer, kind, batch, jax.random.key(1), 2000)
            found[name] = layer, np.asarray(x, np.float64)
        return found[name]

    return draw


@pytest.mark.parametrize("name", GENERATORS)
def test_minibatches_have_the_gradient_as_mean(name, drawn):
    layer, x_RKMN = drawn(name)
    gradient = layer.gram @ layer.error
    apart = x_RKMN - gradient
    error = apart.std((0, 1)) / np.sqrt(np.prod(x_RKMN.shape[:2]))
    assert np.all(np.abs(apart.mean((0, 1))) < 5 * error + 1e-6)
    assert np.sum(layer.error * gradient) == pytest.approx(4, rel=1e-4)
    # Microbatches are independent: of a mean, the noise is what it should be.
    power = np.mean(np.sum(apart.mean(1) ** 2, (-2, -1)))
    single = np.mean(np.sum(apart**2, (-2, -1)))
    assert power == pytest.approx(single / MICROBATCHES, rel=0.1)
    if GENERATORS[name].kind == "additive":
        level = 2.0 * np.linalg.norm(gradient) / np.sqrt(64)
        assert np.sqrt(power) == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize("name", ["gaussian", "regression"])
def test_truth_is_the_best_step_of_a_search(name, drawn):
    """Both geometries, against the loss itself over a grid of step sizes."""
    layer, x_RKMN = drawn(name)
    means_RMN = x_RKMN[:40].mean(1)
    truth = best_steps(layer, np.float32(means_RMN))
    gram, error = np.float64(layer.gram), np.float64(layer.error)

    def loss(apart):
        return np.trace(apart.T @ gram @ apart) / 2

    best = []
    for direction in (np.sign, reference.polar):
        steps = [direction(mean) for mean in means_RMN]
        decreases = [
            np.mean([loss(error) - loss(error - eta * step) for step in steps])
            for eta in np.linspace(0, 2, 401)
        ]
        assert 0 < np.argmax(decreases) < 400
        best.append(max(decreases))
    assert truth.sign == pytest.approx(best[0], rel=1e-3)
    assert truth.spectral == pytest.approx(best[1], rel=1e-3)
    assert truth.log_ratio == pytest.approx(np.log(best[1] / best[0]), abs=2e-3)


def test_the_error_of_the_truth_is_its_spread(drawn):
    layer, x_RKMN = drawn("gaussian")
    means_RMN = np.float32(x_RKMN.mean(1))
    parts = [best_steps(layer, part) for part in np.split(means_RMN, 50)]
    spread = np.std([part.log_ratio for part in parts], ddof=1)
    assert np.mean([part.error for part in parts]) == pytest.approx(spread, rel=0.3)


def test_a_layer_is_the_same_every_time_and_no_other():
    setting = small("activation")
    jax.tree.map(
        np.testing.assert_array_equal, make_layer(setting), make_layer(setting)
    )
    other = make_layer(setting._replace(seed=1))
    assert np.abs(make_layer(setting).error - other.error).max() > 0.1


def test_the_regression_has_the_layers_of_the_specification():
    counted = [
        setting
        for chunk in chunks("default").values()
        for setting in chunk.settings
        if setting.generator == "regression"
    ]
    assert len(set(counted)) == 216
    assert {(s.fan_in, s.fan_out) for s in counted} == {(48, 48)}
    assert {min(s.batch for s in counted), max(s.batch for s in counted)} == {16, 1024}
    layers = {s: sum(len(c.settings) for c in chunks(s).values()) for s in SIZES}
    # As docs/studies.md has it.
    assert layers == {"smoke": 243, "default": 1296, "full": 11178}


def rows(log_ratios, choices):
    """One layer for each ratio; all rules choose the same and two are right."""
    settings = [s for c in chunks("smoke").values() for s in c.settings]
    return [
        {
            **{key: str(value) for key, value in settings[i]._asdict().items()},
            "sign_decrease": "1.0",
            "spectral_decrease": str(np.exp(ratio)),
            "log_ratio": str(ratio),
            "error": "0.1",
            **{f"{rule}_chosen": str(choice) for rule in RULES},
            **{f"{rule}_single": "0.75" for rule in RULES},
        }
        for i, (ratio, choice) in enumerate(zip(log_ratios, choices, strict=True))
    ]


def test_agreement_by_hand():
    found = rows([1.0, -1.0, -0.05, np.nan], [1.0, 1.0, 0.0, 1.0])
    layers = read_layers(found)
    assert layers.log_ratio.tolist() == [1.0, -1.0, -0.05]
    overall = {
        (row["layers"], row["rule"]): row
        for row in agreement(layers)
        if row["group"] == "all"
    }
    row = overall["all", "directional"]
    assert (row["count"], row["agreement"]) == (3, "0.6667")
    assert (row["low"], row["high"]) == ("0.2077", "0.9385")  # Wilson, 2 of 3
    assert float(row["single_step"]) == pytest.approx(
        (0.75 + 0.25 + 0.25) / 3, abs=1e-4
    )
    assert float(row["decrease_kept"]) == pytest.approx(
        (1 + np.exp(-1) + 1) / 3, abs=1e-4
    )
    clear = overall["clear", "directional"]
    assert (clear["count"], clear["agreement"]) == (2, "0.5000")
    assert overall["all", "always"]["agreement"] == "0.3333"
    text = summarize(found).text
    assert "4 layers, 1 of them left out" in text
    assert "in 1 within two standard errors of 0" in text


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    found = rows([1.0, *[-1.0] * 242], [1.0] * 243)
    assert set(read_layers(found).groups["generator"]) == set(GENERATORS)
    summarize(found).draw(tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
