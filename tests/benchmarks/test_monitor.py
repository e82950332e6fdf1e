"""The benchmark of watched steps: options, turns, table."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("flag", ["--rounds=0", "--threads=3", "--optimizer=sgd"])
def test_bad_usage_exits_with_2(watching, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        watching.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_compare_with_off(watching):
    timing = watching.Timing
    timings = {
        "off": timing([0.010, 0.012, 0.011], [0.02, 0.02, 0.02]),
        "every 50": timing([0.011, 0.013, 0.011], [0.02, 0.021, 0.02]),
        "every step": timing([0.022, 0.024, 0.023], [0.03, 0.03, 0.03]),
    }
    off, default, always = watching.rows("muon", timings)
    assert {len(row) for row in (off, default, always)} == {len(watching.HEADER)}
    assert off[3:] == ["-", "20.0", "-", "-", "-"]
    assert default[3] == "1.000 (1.000-1.100)"
    assert default[5:] == ["1.000 (1.000-1.050)", "0.00", "1.03 within"]
    assert always[-2:] == ["10.00", "-"]


def test_a_round_has_one_measuring_step_by_default(watching):
    assert watching.FORMS["every 50"] == {"monitor.every_steps": 50}
    assert watching.EVERY_STEPS % watching.TURNS == 0
