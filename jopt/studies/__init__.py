"""Sweeps, comparisons and named studies over training runs."""

from jopt.studies import statistics
from jopt.studies.sweeps._algorithm_spaces import algorithm_space
from jopt.studies.sweeps._definition import arm, default_sweep
from jopt.studies.sweeps._flatness import compare_cost, compare_flatness
from jopt.studies.sweeps._local_updates import (
    compare_apart_on_language,
    compare_palsgd,
    compare_palsgd_on_language,
)
from jopt.studies.sweeps._methods import compare_methods, compare_on_language
from jopt.studies.sweeps._samplers import sample
from jopt.studies.sweeps._space import (
    Dist,
    choice,
    clipped,
    conditional,
    fixed,
    int_log_uniform,
    log_uniform,
    nested,
    one_minus_log_uniform,
    uniform,
)

__all__ = [
    "Dist",
    "algorithm_space",
    "arm",
    "choice",
    "clipped",
    "compare_apart_on_language",
    "compare_cost",
    "compare_flatness",
    "compare_methods",
    "compare_on_language",
    "compare_palsgd",
    "compare_palsgd_on_language",
    "conditional",
    "default_sweep",
    "fixed",
    "int_log_uniform",
    "log_uniform",
    "nested",
    "one_minus_log_uniform",
    "sample",
    "statistics",
    "uniform",
]
