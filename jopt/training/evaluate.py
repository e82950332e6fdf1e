"""`python -m jopt evaluate RUN`: the bits per byte of a checkpoint, on any split."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jopt.errors import CheckpointError, ConfigError, DataError, print_error
from jopt.training._reopened import reopened
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE

if TYPE_CHECKING:
    from jopt.training._evaluation import Totals
    from jopt.training._tasks import Task

SPLITS = ("validation", "test")


def main(argv: Sequence[str]) -> int:
    """Prints the result of a run's checkpoint; changes nothing in the folder."""
    args = _parser().parse_args(argv)
    try:
        print(_evaluate(args.run, args.split, args.step))
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except (CheckpointError, DataError, OSError) as error:
        print_error(error)
        return EXIT_FAILURE
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt evaluate", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument(
        "--step", type=int, help="of a checkpoint; the newest if absent"
    )
    return parser


def _evaluate(run: Path, split: str, step: int | None) -> str:
    with reopened(run) as (plan, source, checkpoints):
        # These import JAX, for which flags had to be set.
        import jax

        from jopt.training._evaluation import by_domain, totals

        step = checkpoints.latest() if step is None else step
        if step not in checkpoints.steps():
            present = ", ".join(map(str, checkpoints.steps())) or "none"
            raise CheckpointError(f"{run} has no checkpoint {step}; present: {present}")
        state = checkpoints.restore(step, plan.shapes)
    domains = source.domain_names
    sums = jax.jit(plan.task.sums(plan.model, num_domains=len(domains)))
    found = totals(sums, state, source.evaluation(split, whole=True), plan.put)
    return _table(plan.task, split, step, found, by_domain(found, domains))


def _table(
    task: Task, split: str, step: int, whole: Totals, domains: dict[str, Totals]
) -> str:
    result = task.results(whole)
    lines = [
        f"step {step}: {task.describe(result, split)} on {task.amount(result)}, "
        f"loss {result['eval/loss']:.4f} nats"
    ]
    found = {name: task.results(part) for name, part in domains.items()}
    shown = {name: r for name, r in found.items() if r[f"eval/{task.count}"]}
    if len(shown) > 1:
        lines += [
            f"  {name:12} {task.describe(result, split)} on {task.amount(result)}"
            for name, result in shown.items()
        ]
    return "\n".join(lines)
