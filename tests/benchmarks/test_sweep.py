"""The comparison of trials as lanes and one after another, on a small problem."""

from __future__ import annotations

import jax
import numpy as np
import pytest


@pytest.mark.parametrize("flag", ["--rounds=0", "--trials=0", "--optimizer=adamw"])
def test_bad_usage_exits_with_2(sweep, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_compare_with_the_lanes(sweep):
    found = sweep.rows(
        {"lanes": [2e-6, 1e-6, 4e-6], "torch": [20e-6, 20e-6, 20e-6]},
        {"lanes": 3.0, "torch": 0.0},
        steps=1_000_000,
    )
    assert found == [
        ["lanes", "2.0 (1.0)", "-", "3.0", "5.0"],
        ["torch", "20.0 (20.0)", "10.00 (5.00-20.00)", "0.0", "20.0"],
    ]


def test_all_sides_end_with_the_same_parameters(sweep_jax):
    bucket = sweep_jax.bucket_of("sgd", "erm", trials=2, steps=3, width=4)
    ends = {form: sweep_jax.trainer(bucket, form)[0]() for form in sweep_jax.FORMS}
    together, _ = ends.pop("lanes")
    for trial in range(2):
        for form in ends:
            lane, _ = ends[form][trial]
            jax.tree.map(
                lambda a, b, trial=trial: np.testing.assert_allclose(
                    a[trial], b, rtol=1e-4, atol=1e-6
                ),
                together.params,
                lane.params,
            )
