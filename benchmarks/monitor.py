"""What watching costs: the training step with and without `monitor` and guards.

  python benchmarks/monitor.py
  python benchmarks/monitor.py --optimizer=muon --threads=1 --rounds=15

The step of `configs/muon_lm.py:tiny` and `configs/adamw_lm.py:tiny`, as `train.py` runs
it, in five forms:

  off              `monitor.every_steps=0`
  every 50         the default; a round of 50 steps has exactly one that measures
  every step       every step measures
  skip_nonfinite   no monitor, `optim.whole_tree.skip_nonfinite`
  spike_zscore     no monitor, `optim.whole_tree.spike_zscore=8`

All are in one process, since two processes of one and the same form differ by several
percent. In each of `--rounds` rounds they take five turns of ten steps, in an order
that moves on by one each turn. Columns:

  ms/step   wall clock, median of the rounds (smallest)
  ratio     over `off`, of the medians (of single rounds: smallest-largest)
  cpu ms    processor time of all threads; on a busy machine the steadier figure
  cpu ratio its ratio
  extra ms  processor time beyond `off`, median of the rounds' differences; in the row
            `every step` it is what one step that measures costs

The ratio of processor times of `every 50` should stay below 1.03.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from _options import add_timing
from _tables import milliseconds, percent, ratio
from _turns import Timing, asked, in_turns
from _workers import use_cores
from train_step import busy_machine

EVERY_STEPS = 50
TURNS = 5
BOUND = 1.03
FORMS: dict[str, dict[str, Any]] = {
    "off": {"monitor.every_steps": 0},
    "every 50": {"monitor.every_steps": EVERY_STEPS},
    "every step": {"monitor.every_steps": 1},
    "skip_nonfinite": {
        "monitor.every_steps": 0,
        "optim.whole_tree.skip_nonfinite": True,
    },
    "spike_zscore": {"monitor.every_steps": 0, "optim.whole_tree.spike_zscore": 8.0},
}
HEADER = (
    *("optimizer", "form", "ms/step", "ratio"),
    *("cpu ms", "cpu ratio", "extra ms", "bound"),
)


def measure(optimizer: str, size: str, rounds: int) -> dict[str, Timing]:
    """Times every form of the step of one optimizer."""
    from _jopt_side import JoptSide  # imports JAX, which looks for its cores then

    sides = {}
    for form, overrides in FORMS.items():
        sides[form] = JoptSide()
        sides[form].build(optimizer, size, overrides)
        sides[form].prepare("step")
    return in_turns(
        list(FORMS),
        rounds,
        lambda form: asked(sides[form].time("step", EVERY_STEPS // TURNS)),
        turns=TURNS,
    )


def rows(optimizer: str, timings: dict[str, Timing]) -> list[list[str]]:
    """One row for each form."""
    off = timings["off"]
    table = []
    for form, timing in timings.items():
        versus = ratio(timing.cpu, off.cpu)
        extra = statistics.median(
            a - b for a, b in zip(timing.cpu, off.cpu, strict=True)
        )
        bounded = form == f"every {EVERY_STEPS}"
        verdict = "within" if versus.medians <= BOUND else "ABOVE"
        table.append(
            [
                optimizer,
                form,
                milliseconds(timing.wall),
                "-" if form == "off" else percent(ratio(timing.wall, off.wall)),
                f"{1e3 * statistics.median(timing.cpu):.1f}",
                "-" if form == "off" else percent(versus),
                "-" if form == "off" else f"{1e3 * extra:.2f}",
                f"{BOUND} {verdict}" if bounded else "-",
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
    add("--optimizer", default="both", choices=("muon", "adamw", "both"))
    add_timing(parser, rounds=11)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 2 bad usage."""
    options = parse(argv)
    use_cores(options.threads)
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    both = options.optimizer == "both"
    table = []
    for optimizer in ("muon", "adamw") if both else (options.optimizer,):
        table += rows(optimizer, measure(optimizer, options.size, options.rounds))
    from jopt.reporting import markdown_table  # imports JAX, as above

    print(markdown_table(HEADER, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
