"""What accuracy costs: polar factors by jopt and by Optax, in error and in time.

  python benchmarks/polar_frontier.py
  python benchmarks/polar_frontier.py --plot=frontier.svg     (needs jopt[docs])

Each setting orthogonalises the classes of matrices of `polar_accuracy.py`, one by one,
and is timed on eight Gaussian ones at once, processor time of one pinned thread,
settings in turns, medians of the rounds. The table has the time of the square (1:1)
and the wide (1:4) ones and the distance ||O - U V^T||_F / sqrt(M) for each class. The
last column names, for each setting of Optax, a setting of jopt that is as fast or
faster for both shapes and as close or closer on every class but `low rank` (whose noise
directions a more accurate iteration lifts more), or `-` if there is none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _turns import in_turns, spent
from polar_accuracy import Form, classes, jopt_form, optax_form

from jopt.linalg import reference
from jopt.reporting import markdown_table

OPTAX: dict[str, Form] = {
    "optax": optax_form(),
    "optax, 3 steps": optax_form(ns_steps=3),
    "optax, 8 steps": optax_form(ns_steps=8),
    "optax, schatten": optax_form(preconditioning="schatten"),
    "optax, aol": optax_form(preconditioning="aol"),
    "optax, dion": optax_form(ns_coeffs="dion"),
    "optax, dion, schatten": optax_form(ns_coeffs="dion", preconditioning="schatten"),
    "optax, dion, aol": optax_form(ns_coeffs="dion", preconditioning="aol"),
}
HALF, SINGLE = {"compute_dtype": "bfloat16"}, {"compute_dtype": "float32"}
JOPT: dict[str, Form] = {
    "auto": jopt_form(**HALF),
    "auto, float32": jopt_form(**SINGLE),
    "fast3": jopt_form(coeffs="polar_express_fast3", **HALF),
    "fast3, float32": jopt_form(coeffs="polar_express_fast3", **SINGLE),
    "jordan": jopt_form(coeffs="jordan", **HALF),
    "you5": jopt_form(coeffs="you5", **HALF),
    "you5, schatten8": jopt_form(coeffs="you5", normalization="schatten8", **HALF),
    "you5, schatten8, float32": jopt_form(
        coeffs="you5", normalization="schatten8", **SINGLE
    ),
    "polar_express, float32": jopt_form(coeffs="polar_express", **SINGLE),
    "hybrid10, float32": jopt_form(coeffs="hybrid10", **SINGLE),
}
NOISE = "low rank"


class Point(NamedTuple):
    """One setting: seconds by shape, distance by class."""

    times: tuple[float, ...]
    errors: dict[str, float]


def distances(form: Form, matrices: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Distance to the polar factor by class."""
    program = jax.jit(form)
    found = {}
    for kind, x in matrices.items():
        apart = np.asarray(program(jnp.asarray(x)), np.float64) - reference.polar(x)
        found[kind] = float(np.linalg.norm(apart) / np.sqrt(min(x.shape)))
    return found


def measured(size: int, rounds: int) -> dict[str, Point]:
    """Every setting, on all classes and both shapes."""
    matrices = classes(size)
    forms = {**OPTAX, **JOPT}
    times = []
    for aspect in (1, 4):
        keys = jax.random.split(jax.random.key(aspect), 8)
        stack = [jax.random.normal(key, (size, aspect * size)) for key in keys]

        def ready(form: Form, stack: list[jax.Array] = stack) -> Callable[[], object]:
            # jopt groups equal matrices in its transformation; Optax takes each alone.
            several = form in JOPT.values()
            x = jnp.stack(stack) if several else stack
            call = form if several else (lambda xs: [form(x) for x in xs])
            program = jax.jit(call)
            return lambda: jax.block_until_ready(program(x))

        sides = [ready(form) for form in forms.values()]
        timings = in_turns(sides, rounds, spent)
        times.append([statistics.median(timing.cpu) for timing in timings.values()])
    return {
        name: Point(by_shape, distances(form, matrices))
        for (name, form), by_shape in zip(
            forms.items(), zip(*times, strict=True), strict=True
        )
    }


def beaten_by(name: str, points: Mapping[str, Point]) -> str:
    """A setting of jopt that is nowhere slower or further off, or `-`."""
    peer = points[name]
    for other in JOPT:
        own = points[other]
        faster = all(a <= b for a, b in zip(own.times, peer.times, strict=True))
        closer = all(
            error <= peer.errors[kind]
            for kind, error in own.errors.items()
            if not kind.startswith(NOISE)
        )
        if faster and closer:
            return other
    return "-"


def plot(points: Mapping[str, Point], kinds: Sequence[str], path: str) -> None:
    """Error against time, one panel for each class."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(kinds), figsize=(4 * len(kinds), 3.6), sharey=True, layout="constrained"
    )
    for panel, kind in zip(panels, kinds, strict=True):
        wide = kind.endswith("1:4")
        for name, point in points.items():
            own = name in JOPT
            x, y = 1e3 * point.times[wide], max(point.errors[kind], 1e-4)
            panel.loglog(x, y, "o" if own else "s", color="C0" if own else "C1")
            panel.annotate(name, (x, y), (4, 3), textcoords="offset points", fontsize=6)
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel("ms of one thread, 8 matrices")
    panels[0].set_ylabel("distance to the polar factor, ‖O − UVᵀ‖_F / √M")
    figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, and draws it if asked to; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", default="", help="an SVG or PNG file")
    options = parser.parse_args(argv)
    if options.size < 8 or options.rounds < 1:
        parser.error("--size has to be 8 or more, --rounds 1 or more")
    if hasattr(os, "sched_setaffinity"):
        # Before JAX counts cores, which it does when it first runs something.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    points = measured(options.size, options.rounds)
    kinds = list(next(iter(points.values())).errors)
    rows = [
        [
            name,
            *(f"{1e3 * t:.1f}" for t in point.times),
            *(f"{point.errors[kind]:.3f}" for kind in kinds),
            beaten_by(name, points) if name in OPTAX else "",
        ]
        for name, point in points.items()
    ]
    print(markdown_table(["setting", "ms 1:1", "ms 1:4", *kinds, "beaten by"], rows))
    if options.plot:
        plot(points, ("gauss 1:1", "cond 1e4 1:1", "gauss 1:4"), options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
