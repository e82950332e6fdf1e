"""What the layerwise criteria cost, part by part, beside the training step.

  python benchmarks/criteria.py
  python benchmarks/criteria.py --size=micro --threads=1 --rounds=5

All matrices of `configs/muon_lm.py:<size>`, with gradients, noise and activations of
that model, against its training step as `train.py` runs it. All in one process, each
compiled by itself; in each of `--rounds` rounds they take one turn of `--calls`
executions, in an order that moves on by one each round. Rows:

  step           the training step, without criteria
  gram           A^T A / N of every tap that multiplies a matrix, over every second
                 position (`oracle.gram_stride`); the forward pass that gives the
                 activations is in the step
  signal         polar factors of the gradient, and its nuclear norms
  noise          nuclear norms of the half difference, and the cheap norms of both
  signs          L_max by sign power iteration, L_op, of every layer
  directional    L_g along the steps, from the factors of `signal`
  index          the Spec-Sign index, decision and noise scales, from what is there
  ranks          the nuclear-stable criterion: eigenvalues of C, nuclear rank
  firing         gram, signal, noise, signs and index in one program: all layers
  firing, dir.   the same with `directional` instead of `signs`
  firing by SVD  as `firing`, with exact nuclear norms
  noise by SVD   as `noise`

Columns:

  ms            wall clock of one execution, median of the rounds (smallest)
  cpu ms        processor time of all threads, the steadier figure on a busy machine
  of a step     its ratio to `step`, of the medians (of single rounds: smallest-largest)
  every 20      that ratio over 20: what it adds to the step time on average when it is
                done every 20 steps; should stay below 0.03 for `firing`
  of SVD        processor time over that of the SVD version, where there is one
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _options import add_timing, at_least_one
from _tables import milliseconds, percent, ratio
from _turns import Timing, asked, in_turns
from _workers import use_cores
from train_step import busy_machine

EVERY_STEPS = 20
BOUND = 0.03
METHOD = "quick"  # of nuclear norms, as the geometry switch has them
HEADER = ("part", "ms", "cpu ms", "of a step", f"every {EVERY_STEPS}", "of SVD")
SVD_VERSIONS = {"noise": "noise by SVD", "firing": "firing by SVD"}


def inputs(side: Any) -> tuple[Any, ...]:
    """Mean gradient, half difference, activations by tap, views and taps of weights."""
    import jax

    model, params = side._plan.model, side._away()
    gradient = jax.jit(side._gradient_function())
    first, second = (
        gradient(params, side._plan.put(batch))[1] for batch in side._batches[:2]
    )
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    difference = jax.tree.map(lambda a, b: (a - b) / 2, first, second)
    specs = {path: spec for path, spec in model.matrix_specs.items() if spec}
    taps = {path: tap for path, tap in model.taps.items() if path in specs}
    names = tuple(dict.fromkeys(taps.values()))
    batch = side._plan.put(side._batches[0])
    _, _, activations = model.apply(
        params, {}, batch, key=None, train=False, taps=names
    )
    return mean, difference, activations, specs, taps


def parts(side: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, compiled and run once; each waits for its result."""
    import jax

    from jopt import criteria
    from jopt.models import activation_gram
    from jopt.training._grams import gram_result_dtype
    from jopt.tree import named_leaves

    mean, difference, activations, specs, taps = inputs(side)
    shapes = {path: leaf.shape for path, leaf in named_leaves(mean).items()}

    def grams(activations: Mapping[str, Any]) -> dict[str, Any]:
        fan_in = {tap: specs[path].dims(shapes[path])[1] for path, tap in taps.items()}
        stacked = {
            tap: len(specs[path].axes(len(shapes[path]))[0])
            for path, tap in taps.items()
        }
        by_tap = {
            tap: activation_gram(
                x,
                fan_in[tap],
                stacked_axes=stacked[tap],
                stride=side._plan.config.oracle.gram_stride,
                result_dtype=gram_result_dtype(),
            )
            for tap, x in activations.items()
        }
        return {path: by_tap[tap] for path, tap in taps.items()}

    def noise(mean: Any, difference: Any, polar: Any, method: str = METHOD) -> Any:
        return criteria.tree_stats(mean, difference, specs, method=method, polar=polar)

    def curvature(grams: Any, directions: Any = None) -> Any:
        mode = "worst_case" if directions is None else "directional"
        return criteria.tree_curvature(
            grams, mean, specs, mode=mode, directions=directions
        )

    def index(stats: Any, constants: Any) -> Any:
        return {
            path: (
                criteria.spec_sign_index(stats[path], constants[path], previous=True),
                criteria.noise_scale(stats[path], 64),
            )
            for path in specs
        }

    def ranks(mean: Any, grams: Any) -> Any:
        leaves = named_leaves(mean)
        return {
            path: criteria.nuclear_stable_criterion(leaves[path], gram, specs[path])
            for path, gram in grams.items()
        }

    def firing(
        mean: Any,
        difference: Any,
        activations: Any,
        method: str = METHOD,
        directional: bool = False,
    ) -> Any:
        directions = None
        if directional:
            directions = criteria.tree_directions(mean, specs, method=method)
        polar = directions.spectral if directions else None
        stats = noise(mean, difference, polar, method)
        return index(stats, curvature(grams(activations), directions))

    def signal(mean: Any) -> Any:
        return criteria.tree_directions(mean, specs, method=METHOD)

    found = {
        "grams": jax.jit(grams)(activations),
        "directions": jax.jit(signal)(mean),
    }
    polar = found["directions"].spectral
    stats = jax.jit(noise)(mean, difference, polar)
    constants = jax.jit(curvature)(found["grams"])

    def fixed(fn: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
        compiled = jax.jit(lambda *args: fn(*args, **options)).lower(*args).compile()
        return lambda: jax.block_until_ready(compiled(*args))

    all_of = (mean, difference, activations)
    runs = {
        "gram": fixed(grams, activations),
        "signal": fixed(signal, mean),
        "noise": fixed(noise, mean, difference, polar),
        "signs": fixed(curvature, found["grams"]),
        "directional": fixed(curvature, found["grams"], found["directions"]),
        "index": fixed(index, stats, constants),
        "ranks": fixed(ranks, mean, found["grams"]),
        "firing": fixed(firing, *all_of),
        "firing, dir.": fixed(firing, *all_of, directional=True),
        "firing by SVD": fixed(firing, *all_of, method="svd"),
        "noise by SVD": fixed(noise, mean, difference, polar, method="svd"),
    }
    for run in runs.values():
        run()
    return runs


def measure(size: str, rounds: int, calls: int) -> dict[str, Timing]:
    """Times the training step and every part of a firing one."""
    from _jopt_side import JoptSide  # imports JAX, which looks for its cores then

    side = JoptSide()
    side.build("muon", size, {"monitor.every_steps": 0})
    side.prepare("step")
    runs = parts(side)
    side._runs.update(runs)
    names = ["step", *runs]
    return in_turns(
        names, rounds, lambda name: asked(side.time(name, calls)), warm_up=0
    )


def rows(timings: Mapping[str, Timing]) -> list[list[str]]:
    """One row for each part."""
    step = timings["step"]
    table = []
    for name, timing in timings.items():
        share = ratio(timing.cpu, step.cpu)
        average = share.medians / EVERY_STEPS
        verdict = f" {'within' if average <= BOUND else 'ABOVE'} {BOUND}"
        exact = timings.get(SVD_VERSIONS.get(name, ""))
        table.append(
            [
                name,
                milliseconds(timing.wall),
                f"{1e3 * statistics.median(timing.cpu):.2f}",
                "-" if name == "step" else percent(share),
                "-"
                if name == "step"
                else f"{average:.4f}{verdict if name.startswith('firing') else ''}",
                "-" if exact is None else percent(ratio(timing.cpu, exact.cpu)),
            ]
        )
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", default="tiny", choices=("micro", "tiny", "small"))
    add_timing(parser, rounds=7)
    add("--calls", type=at_least_one, default=3)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 2 bad usage."""
    options = parse(argv)
    use_cores(options.threads)
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    timings = measure(options.size, options.rounds, options.calls)
    from jopt.reporting import markdown_table  # imports JAX, as above

    print(markdown_table(HEADER, rows(timings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
