"""`python -m jopt evaluate RUN`: what a checkpoint reaches, on any split."""

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
    from jopt.training._task import Task

SPLITS = ("validation", "test")
LOSS = "eval/loss"


def main(argv: Sequence[str]) -> int:
    """Prints the result of a run's checkpoint; changes nothing in the folder."""
    args = _parser().parse_args(argv)
    try:
        print(_evaluate(args))
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
    parser.add_argument(
        "--corruptions",
        metavar="NAME,...",
        help="of images, or 'all'; those of eval.corruptions if absent",
    )
    parser.add_argument(
        "--shifts",
        metavar="NAME,...",
        help="other test sets, or 'all'; those of eval.shifts if absent",
    )
    return parser


def _evaluate(args: argparse.Namespace) -> str:
    run, split, step = args.run, args.split, args.step
    with reopened(run) as (plan, source, checkpoints):
        # These import JAX, for which flags had to be set.
        import jax

        from jopt.training._evaluation import by_domain, corrupted, shifted, totals

        step = checkpoints.latest() if step is None else step
        if step not in checkpoints.steps():
            present = ", ".join(map(str, checkpoints.steps())) or "none"
            raise CheckpointError(f"{run} has no checkpoint {step}; present: {present}")
        state = plan.model_of(checkpoints.restore(step, plan.shapes))
    domains = source.domain_names
    sums = jax.jit(plan.task.sums(plan.model, num_domains=len(domains)))
    found = totals(sums, state, source.evaluation(split, whole=True), plan.put)
    copies = source.corrupted(split, _names(args.corruptions))
    worse = corrupted(plan.task, plan.sums, state, copies, plan.put)
    shifts = source.shifted(_names(args.shifts))
    elsewhere = shifted(plan.task, plan.sums_among, state, shifts, plan.put)
    lines = _table(plan.task, split, step, found, by_domain(found, domains))
    severities = plan.config.eval.severities
    lines += [*_corrupted_lines(worse, severities), *_shift_lines(elsewhere)]
    return "\n".join(lines)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def _table(
    task: Task, split: str, step: int, whole: Totals, domains: dict[str, Totals]
) -> list[str]:
    result = task.results(whole)
    # Only a loss that is a cross-entropy has a unit.
    unit = (
        " nats" if result.get("eval/nll", result["eval/loss"]) == result[LOSS] else ""
    )
    lines = [
        f"step {step}: {task.describe(result, split)} on {task.amount(result)}, "
        f"loss {result[LOSS]:.4f}{unit}"
    ]
    if "eval/ece" in result:
        lines.append(
            f"  ECE {result['eval/ece']:.4f} (15 bins), Brier score "
            f"{result['eval/brier']:.4f}, NLL {result['eval/nll']:.4f} nats"
        )
    found = {name: task.results(part) for name, part in domains.items()}
    shown = {name: r for name, r in found.items() if r[f"eval/{task.count}"]}
    if len(shown) > 1:
        lines += [
            f"  {name:12} {task.describe(result, split)} on {task.amount(result)}"
            for name, result in shown.items()
        ]
    return lines


def _corrupted_lines(worse: dict[str, float], severities: Sequence[int]) -> list[str]:
    """The mean over all corrupted copies, and the accuracy of each, by name."""
    if not worse:
        return []
    prefix = "eval/corrupted/"
    names = dict.fromkeys(
        key.removeprefix(prefix).split("/")[0]
        for key in worse
        if key.count("/") == 4  # eval/corrupted/name/severity/figure
    )
    lines = [
        f"corrupted: {worse[prefix + 'accuracy']:.4f} accuracy, ECE "
        f"{worse[prefix + 'ece']:.4f}, means of {len(names) * len(severities)} copies; "
        f"by severity {', '.join(map(str, severities))}:"
    ]
    for name in names:
        each = (worse[f"{prefix}{name}/{s}/accuracy"] for s in severities)
        lines.append(
            f"  {name:18} {worse[f'{prefix}{name}/accuracy']:.4f}   "
            + " ".join(f"{accuracy:.4f}" for accuracy in each)
        )
    return lines


def _shift_lines(found: dict[str, float]) -> list[str]:
    """Accuracy and ECE of each other test set."""
    if not found:
        return []
    prefix = "eval/shifted/"
    names = dict.fromkeys(key.removeprefix(prefix).split("/")[0] for key in found)
    return ["other test sets:"] + [
        f"  {name:18} {found[f'{prefix}{name}/accuracy']:.4f} accuracy, ECE "
        f"{found[f'{prefix}{name}/ece']:.4f} on "
        f"{found[f'{prefix}{name}/examples']:,.0f} examples"
        for name in names
    ]
