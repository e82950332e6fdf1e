"""Trials as lanes of one program, beside the same trials one after another.

  python benchmarks/sweep.py --peer-python=VENV/bin/python
  python benchmarks/sweep.py --optimizer=adam --algorithm=irm --trials=20 --threads=2

The peer needs an environment of its own with `torch` (CPU). All sides train the same
perceptron of two hidden layers (two environments of 64 rows a step), every trial with
other settings of the same optimizer, as `python -m jopt study optimizer` does, on
coloured digits, or for the peer on random pixels of their number. Sides
take turns for `--rounds` rounds; the first round warms up.

  lanes         all trials in one program, `--steps` steps in one call
  alone         a trial after the other, each `--steps` steps in one call
  step by step  a trial after the other, each step a call, as the training loop has it
  own programs  a trial after the other, each compiled anew with its settings as
                constants, as jobs are that know nothing of each other; `us` has it all
  torch         a trial after the other, plain eager PyTorch
  us            of one step of one trial, median of the rounds (smallest)
  of lanes      over `lanes`, of the medians (of single rounds: smallest-largest)
  compile s     tracing, lowering and compiling before the first step, without a cache
  sweep s       all of it: compilation, and all steps of all trials

Times are of the processor with one thread, which a busy machine changes little, and by
wall clock with two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from _options import add_timing, at_least_one
from _tables import ratio
from _turns import Timing, asked, in_turns
from _workers import Worker
from train_step import busy_machine

HERE = Path(__file__).parent
HEADER = ("side", "us", "of lanes", "compile s", "sweep s")
LANES = "lanes"
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam")


def measure(
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, str]]:
    """Seconds of one step of one trial by side, seconds of compilation, versions."""
    threads = str(options.threads)
    commands = [[sys.executable, str(HERE / "_sweep_jax.py"), threads]]
    if options.peer_python:
        commands.append([options.peer_python, str(HERE / "_sweep_torch.py"), threads])
    problem = {
        name: getattr(options, name)
        for name in ("optimizer", "algorithm", "trials", "steps", "width")
    }
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(command)) for command in commands]
        sides = {form: w for w in workers for form in w.ask("forms")}
        built = {
            form: asked(worker.ask("build", form=form, **problem))
            for form, worker in sides.items()
        }
        timings = in_turns(
            list(sides),
            options.rounds,
            lambda form: asked(sides[form].ask("time", form=form)),
        )
        versions = {k: v for w in workers for k, v in w.ask("versions").items()}
    count = options.trials * options.steps
    seconds = {
        form: [secs / count for secs in timing.by(options.threads)]
        for form, timing in timings.items()
    }
    compile_secs = {
        form: Timing([one.wall], [one.cpu]).by(options.threads)[0]
        for form, one in built.items()
    }
    return seconds, compile_secs, versions


def rows(
    seconds: dict[str, list[float]], compile_secs: dict[str, float], steps: int
) -> list[list[str]]:
    """One row for each side; `steps` are those of all trials.

    >>> rows({"lanes": [1e-6], "torch": [5e-6]}, {"lanes": 2.0, "torch": 0.0}, 10**6)[1]
    ['torch', '5.0 (5.0)', '5.00 (5.00-5.00)', '0.0', '5.0']
    """
    return [
        [
            form,
            f"{1e6 * statistics.median(secs):.1f} ({1e6 * min(secs):.1f})",
            "-" if form == LANES else str(ratio(secs, seconds[LANES])),
            f"{compile_secs[form]:.1f}",
            f"{compile_secs[form] + steps * statistics.median(secs):.1f}",
        ]
        for form, secs in seconds.items()
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--optimizer", default="adam", choices=OPTIMIZERS)
    add("--algorithm", default="erm", choices=("erm", "irm"))
    add("--trials", type=at_least_one, default=20)
    add("--steps", type=at_least_one, default=600)
    add("--width", type=at_least_one, default=64)
    add_timing(parser, rounds=3)
    add("--peer-python", help="python of an environment with torch; none: no peer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 2 bad usage."""
    options = parse(argv)
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    seconds, built, versions = measure(options)
    from jopt.reporting import markdown_table

    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(
        f"{options.algorithm}, {options.optimizer}, {options.trials} trials of "
        f"{options.steps} steps, width {options.width}, {options.threads} thread(s), "
        f"{options.rounds} rounds\n"
    )
    print(markdown_table(HEADER, rows(seconds, built, options.trials * options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
