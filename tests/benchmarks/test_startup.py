"""The start-up benchmark: options, parsing, table; and one import for real."""

from __future__ import annotations

import os

import pytest


def test_defaults(startup):
    options = startup.parse([])
    assert options.rounds >= 11 and options.starts >= 3
    assert options.config == "configs/muon_lm.py:tiny"


@pytest.mark.parametrize("flag", ["--rounds=0", "--starts=0", "--only=lunch"])
def test_bad_usage_exits_with_2(startup, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        startup.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_first_step_line(startup):
    assert startup.first_step_secs("step 1\nfirst step after 12.5 s\n") == 12.5
    assert startup.first_step_secs("starting of 2, 900,000 parameters") is None


def test_import_rows_show_ratio_and_bound(startup):
    rows = startup.import_rows([1.0] * 3, [1.2, 1.3, 1.1], [1.4] * 3)
    assert rows[2] == ["ratio", "1.200", "1.10-1.30", "1.15", "ABOVE"]
    assert rows[4] == ["ratio", "1.400", "1.40-1.40", "-", "-"]
    assert {len(row) for row in rows} == {len(startup.HEADER)}


def test_training_rows_show_each_bound(startup):
    cold, warm = startup.training_rows({"cold": [8.0, 9.5, 8.5], "warm": [5.5]})
    assert cold == ["first step, cold (s)", "8.50", "8.00-9.50", "9", "within"]
    assert warm[-2:] == ["5", "ABOVE"]


def test_processes_have_caches_of_their_own(startup, tmp_path):
    theirs = {"JAX_COMPILATION_CACHE_DIR": "a", "PYTHONDONTWRITEBYTECODE": "1"}
    kept = {"JOPT_CACHE_DIR": "b", "HOME": "c"}
    env = startup.own_environment(theirs | kept, tmp_path)
    assert not theirs.keys() & env.keys()
    assert env["JOPT_CACHE_DIR"] == str(tmp_path) and env["HOME"] == "c"
    assert env["PYTHONPYCACHEPREFIX"].startswith(str(tmp_path))


def test_processes_take_turns_and_the_first_round_is_dropped(startup, tmp_path):
    log = tmp_path / "log"
    statements = [f"open({str(log)!r}, 'a').write({mark!r})" for mark in "ab"]
    timings = startup.import_secs(2, statements, os.environ)
    assert log.read_text() == "ababab"
    assert [len(secs) for secs in timings] == [2, 2]


def test_a_training_without_a_first_step_is_shown(startup):
    with pytest.raises(startup.StartError, match=r"printed no first step:\nusage: "):
        startup.start_training(["--help"], os.environ)


def test_a_failure_is_one_message(startup, capsys, monkeypatch):
    def fail(*_):
        raise startup.StartError("nothing started")

    monkeypatch.setattr(startup, "_run", fail)
    assert startup.main(["--only=import"]) == 1
    assert capsys.readouterr().err == "nothing started\n"
