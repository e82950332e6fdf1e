"""The optimizer's update alone: jopt's Muon beside Optax's and PyTorch's.

  python benchmarks/update.py --peer-python=VENV/bin/python
  python benchmarks/update.py --peer-python=... --tree=gpt2s4 --threads=2 --rounds=5

The peer needs an environment of its own with `torch` (CPU). Every form updates the same
tree of float32 parameters (`_update_trees`) from fixed float32 gradients; all but the
AdamW rows run Muon on the matrices and AdamW on the rest, in the form that each
library has as its default, or as named. Forms take turns, one update each, for
`--rounds` rounds in an order that moves on by one each round; the first round warms up.
With `--threads=1` everything is pinned to one core before any library is imported.

  ms          processor time of one update, median of the rounds (smallest); wall clock
              with two threads
  of optax    over `optax muon`, of the medians (of single rounds: smallest-largest)
  of torch    over `torch muon`
  temp MB     what the compiled program allocates for itself
  compile s   tracing, lowering and compiling, with a cold cache
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from _options import add_timing
from _tables import milliseconds, percent, ratio
from _turns import asked, in_turns
from _update_trees import WIDTHS
from _workers import Worker
from train_step import busy_machine

HERE = Path(__file__).parent
HEADER = ("form", "ms", "of optax", "of torch", "temp MB", "compile s")


def measure(
    tree: str, threads: int, rounds: int, peer_python: str | None
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]], dict[str, str]]:
    """Seconds by form, what building each form took, and versions."""
    with ExitStack() as stack:
        commands = [[sys.executable, str(HERE / "_update_jax.py"), str(threads)]]
        if peer_python:
            commands.append([peer_python, str(HERE / "_update_torch.py"), str(threads)])
        workers = [stack.enter_context(Worker(command)) for command in commands]
        sides = {form: w for w in workers for form in w.ask("forms")}
        built = {f: w.ask("build", tree=tree, form=f) for f, w in sides.items()}
        timings = in_turns(
            list(sides), rounds, lambda form: asked(sides[form].ask("time", form=form))
        )
        versions = {k: v for w in workers for k, v in w.ask("versions").items()}
    seconds = {form: timing.by(threads) for form, timing in timings.items()}
    return seconds, built, versions


def rows(
    timings: dict[str, list[float]], built: dict[str, dict[str, float]]
) -> list[list[str]]:
    """One row for each form."""

    def over(form: str, other: str) -> str:
        if form == other or other not in timings:
            return "-"
        return percent(ratio(timings[form], timings[other]))

    return [
        [
            form,
            milliseconds(secs),
            over(form, "optax muon"),
            over(form, "torch muon"),
            f"{built[form]['temp_bytes'] / 1e6:.0f}",
            f"{built[form]['compile_secs']:.1f}",
        ]
        for form, secs in timings.items()
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tree", default="d256", choices=tuple(WIDTHS))
    add_timing(parser, rounds=9, threads=1)
    add("--peer-python", help="python of an environment with torch; none: no peer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 2 bad usage."""
    options = parse(argv)
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    timings, built, versions = measure(
        options.tree, options.threads, options.rounds, options.peer_python
    )
    from jopt.reporting import markdown_table

    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"{options.tree}, {options.threads} thread(s), {options.rounds} rounds\n")
    print(markdown_table(HEADER, rows(timings, built)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
