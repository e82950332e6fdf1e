"""The comparison of what methods cost, on matrices that take no time."""

from __future__ import annotations

import pytest


@pytest.fixture
def small(monkeypatch, update_jax):
    shapes = {"up/kernel": (4, 6), "down/kernel": (6, 4), "norm": (4,)}
    monkeypatch.setattr(update_jax, "shapes", lambda tree: shapes)


@pytest.mark.parametrize(
    ("method", "state_bytes"), [("muon", "4.08"), ("lion_muon", "4.17")]
)
def test_a_cycle_runs_and_state_is_counted_for_each_parameter(
    methods, small, method, state_bytes
):
    cycle, columns = methods.prepared(method, "d256")
    cycle()
    assert columns[0] == state_bytes


def test_a_round_is_the_average_of_a_cycle(methods, turns, monkeypatch):
    monkeypatch.setattr(methods, "spent", lambda run: run())
    cycles = {
        "muon": lambda: turns.Spent(9.0, 3.0),
        "soap": lambda: turns.Spent(9.0, 40.0),
    }
    assert methods.measured(cycles, 1) == {"muon": [3.0], "soap": [4.0]}


def test_every_method_that_is_timed_makes_an_update(methods, small):
    names = methods.from_gradients()
    assert len(names) > 20 and "soap_muon" in names and "spec_sign" not in names
    for name in ("adamw", "normuon", "dion", "scion"):
        methods.prepared(name, "d256")


@pytest.mark.parametrize(
    "flag",
    ["--methods=soap", "--methods=muon,sope", "--methods=muon,spec_sign", "--rounds=0"],
)
def test_bad_usage_exits_with_2(methods, flag, capsys, monkeypatch):
    monkeypatch.setattr(methods, "use_cores", lambda count: None)
    with pytest.raises(SystemExit) as stop:
        methods.main([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err
