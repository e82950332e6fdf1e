"""The benchmark scripts as modules; they import each other by bare names."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(name)


@pytest.fixture
def tables(monkeypatch):
    return _load(monkeypatch, "_tables")


@pytest.fixture
def workers(monkeypatch):
    return _load(monkeypatch, "_workers")


@pytest.fixture
def sweep(monkeypatch):
    return _load(monkeypatch, "sweep")


@pytest.fixture
def sweep_jax(monkeypatch):
    return _load(monkeypatch, "_sweep_jax")


@pytest.fixture
def train_step(monkeypatch):
    return _load(monkeypatch, "train_step")


@pytest.fixture
def startup(monkeypatch):
    return _load(monkeypatch, "startup")


@pytest.fixture
def watching(monkeypatch):
    return _load(monkeypatch, "monitor")


@pytest.fixture
def criteria_costs(monkeypatch):
    return _load(monkeypatch, "criteria")


@pytest.fixture
def update(monkeypatch):
    return _load(monkeypatch, "update")


@pytest.fixture
def update_jax(monkeypatch):
    return _load(monkeypatch, "_update_jax")


@pytest.fixture
def polar_accuracy(monkeypatch):
    return _load(monkeypatch, "polar_accuracy")


@pytest.fixture
def methods(monkeypatch):
    return _load(monkeypatch, "methods")


@pytest.fixture
def fewest_stages(monkeypatch):
    return _load(monkeypatch, "fewest_stages")


@pytest.fixture
def gram_restarts(monkeypatch):
    return _load(monkeypatch, "gram_restarts")


@pytest.fixture
def sharpness(monkeypatch):
    return _load(monkeypatch, "sharpness")


@pytest.fixture
def turns(monkeypatch):
    return _load(monkeypatch, "_turns")


@pytest.fixture
def optimizer_steps(monkeypatch):
    return _load(monkeypatch, "optimizer_steps")
