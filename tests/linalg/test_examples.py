"""The docstrings: every public function has an example, and all of them run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

from jopt import linalg

MODULES = [module.name for module in pkgutil.iter_modules(linalg.__path__)]
FUNCTIONS = [
    name for name in linalg.__all__ if inspect.isfunction(getattr(linalg, name))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"jopt.linalg.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(linalg, name))
