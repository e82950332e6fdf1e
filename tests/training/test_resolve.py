"""What a config says once nothing in it is left to the machine."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax

from jopt.linalg import default_compute_dtype
from jopt.training._plan import resolve

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name, size):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](size)


def test_auto_becomes_a_type_in_the_model_and_in_rules():
    config = load("muon_lm", "micro")
    config.mesh.data = -1
    resolved = resolve(config)
    types = ("float32", "bfloat16")
    assert resolved.train.compute_dtype in types
    assert resolved.model.compute_dtype == resolved.train.compute_dtype
    products = resolved.optim.rules.matrix.compute_dtype
    assert products == default_compute_dtype("float32").name
    assert resolved.mesh.data == len(jax.devices())
    assert config.optim.rules.matrix.compute_dtype == "auto", "the copy was changed"


def test_a_type_that_was_chosen_stays():
    config = load("muon_lm", "micro")
    config.optim.rules.matrix.compute_dtype = "float32"
    assert resolve(config).optim.rules.matrix.compute_dtype == "float32"
    assert "compute_dtype" not in resolve(load("adamw_lm", "micro")).optim.rules.matrix
