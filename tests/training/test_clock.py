"""Tokens per second count training steps alone."""

from __future__ import annotations

import pytest

from jopt.training import _clock


def test_what_comes_after_the_last_step_changes_nothing(monkeypatch):
    now = 0.0
    monkeypatch.setattr(_clock.time, "monotonic", lambda: now)
    clock = _clock.Clock()
    now = 100.0
    clock.start()
    for secs, pause, rate in ((2.0, 50.0, 8.0), (2.0, 0.0, 8.0), (4.0, 999.0, 6.0)):
        now += secs
        clock.add(16)
        with clock.pause():
            now += pause
        assert clock.rate() == pytest.approx(rate)
