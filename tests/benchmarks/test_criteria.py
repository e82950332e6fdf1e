"""The benchmark of the criteria: options, what is timed, table."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("flag", ["--rounds=0", "--calls=0", "--size=gpt2"])
def test_bad_usage_exits_with_2(criteria_costs, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        criteria_costs.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_compare_with_the_step_and_with_svd(criteria_costs):
    timing = criteria_costs.Timing
    timings = {
        "step": timing([0.1, 0.1], [0.2, 0.2]),
        "noise": timing([0.02, 0.01], [0.02, 0.02]),
        "firing": timing([0.06, 0.06], [0.1, 0.13]),
        "firing, dir.": timing([0.06, 0.06], [0.14, 0.14]),
        "firing by SVD": timing([0.6, 0.6], [1.2, 1.2]),
    }
    table = criteria_costs.rows(timings)
    assert {len(row) for row in table} == {len(criteria_costs.HEADER)}
    step, noise, firing, directional, exact = table
    assert step == ["step", "100.0 (100.0)", "200.00", "-", "-", "-"]
    assert noise[2:] == ["20.00", "0.100 (0.100-0.100)", "0.0050", "-"]
    assert firing[3] == "0.575 (0.500-0.650)"
    assert firing[4:] == ["0.0287 within 0.03", "0.096 (0.083-0.108)"]
    assert directional[4] == "0.0350 ABOVE 0.03"
    assert exact[-1] == "-"


@pytest.mark.slow
def test_parts_are_those_that_the_table_explains(criteria_costs):
    timings = criteria_costs.measure("micro", rounds=1, calls=1)
    for name in timings:
        assert f"\n  {name}  " in criteria_costs.__doc__
    assert set(criteria_costs.SVD_VERSIONS.values()) <= timings.keys()
