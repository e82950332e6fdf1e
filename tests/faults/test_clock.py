"""A clock that jumps by days changes neither the result nor any duration."""

from __future__ import annotations

from pathlib import Path

JUMPING = """
import importlib.util, itertools, time

real, count = time.time, itertools.count()

def jumping():
    '''Another day, backwards or forwards, at every call.'''
    return real() + 86400 * (-1) ** next(count)

def get_config(arg=""):
    time.time = jumping
    spec = importlib.util.spec_from_file_location("digits", "configs/muon_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)
"""


def test_jumps(digits, unbroken, tmp_path: Path):
    config = tmp_path / "jumping.py"
    config.write_text(JUMPING)
    run = digits("run", f"--config={config}", "--config.train.step_timeout_secs=60")
    run.finish()
    assert run.outcome() == unbroken
    result = run.status()["result"]
    assert 100 < result["tokens_per_sec"] < 1e8
    assert 0 < result["wall_secs"] < 600
