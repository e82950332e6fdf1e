"""Studies of local updates: what their arms are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jopt.training._flags import load_config
from jopt.training._plan import make_plan, resolve
from jopt.tree import named_leaves

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["palsgd_lm", "palsgd_cnn"])
def test_an_arm_pulls_the_first_tensor_alone(name, monkeypatch):
    """A pattern that matched nothing would be the arm without pulls."""
    monkeypatch.chdir(ROOT)
    arms = load_config(f"configs/sweeps/{name}.py").arms
    own = arms.palsgd_first_32
    plan = make_plan(resolve(load_config(own.train_config)))
    pattern = re.compile(own.overrides.local_updates.pull_match)
    pulled = [path for path in named_leaves(plan.params) if pattern.search(path)]
    assert len(pulled) == 1
    assert arms.skip_only_32.overrides.local_updates.strength == 0
