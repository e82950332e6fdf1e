"""The comparison of updates, and of their accuracy, on small trees and matrices."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.linalg import polynomial_value, reference


@pytest.mark.parametrize("flag", ["--rounds=0", "--threads=3", "--tree=d128"])
def test_bad_usage_exits_with_2(update, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        update.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_every_form_runs(monkeypatch, update_jax):
    small = {"embed": (6, 4), "norm": (4,), "up/kernel": (4, 8), "down/kernel": (8, 4)}
    monkeypatch.setattr(update_jax, "shapes", lambda tree: small)
    side = update_jax.JaxSide()
    for form in side.forms():
        built = side.build("d256", form)
        assert built["compile_secs"] > 0 and built["temp_bytes"] >= 0
        spent = side.time(form)
        assert spent["secs"] > 0 and spent["cpu_secs"] >= 0


@pytest.mark.parametrize(("tree", "width"), [("d256", 256), ("gpt2s4", 768)])
def test_trees_have_the_matrices_that_they_promise(update_jax, tree, width):
    shapes = update_jax.shapes(tree)
    kernels = [shape for path, shape in shapes.items() if path.endswith("kernel")]
    assert kernels.count((width, width)) == 16
    assert kernels.count((width, 4 * width)) == kernels.count((4 * width, width)) == 4
    assert len(kernels) == 24


def test_rows_compare_with_both_peers(update):
    timings = {"optax muon": [4.0], "torch muon": [2.0], "jopt muon": [1.0]}
    built = {form: {"temp_bytes": 2e6, "compile_secs": 0.5} for form in timings}
    assert update.rows(timings, built)[2] == [
        *("jopt muon", "1000.0 (1000.0)"),
        *("0.250 (0.250-0.250)", "0.500 (0.500-0.500)", "2", "0.5"),
    ]


@pytest.mark.parametrize("kind", ["gauss 1:1", "gauss 1:4", "cond 1e2 1:4"])
def test_optax_form_is_the_polar_factor_up_to_its_coefficients(polar_accuracy, kind):
    x = polar_accuracy.classes(16)[kind]
    found = np.asarray(polar_accuracy.FORMS["optax, default"](x))
    expected = reference.singular_value_map(
        x, lambda s: polynomial_value("jordan", s / np.linalg.norm(x))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
