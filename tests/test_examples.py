"""The docstrings: every public function has an example, and all of them run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import jopt
import jopt.studies
import jopt.weights

PUBLIC = (
    *(jopt, jopt.linalg, jopt.criteria, jopt.transforms, jopt.optimizers),
    jopt.merging,
    jopt.landscape.curvature,
    jopt.landscape.paths,
    jopt.weights,
    jopt.studies.statistics,
)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(jopt.__path__, "jopt.")
    if not module.ispkg and not module.name.endswith("__main__")
]
FUNCTIONS = {
    name: getattr(package, name)
    for package in PUBLIC
    for name in package.__all__
    if inspect.isfunction(getattr(package, name))
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example(name):
    assert ">>> " in inspect.getdoc(FUNCTIONS[name])
