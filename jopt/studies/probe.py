"""`python -m jopt probe RUN`: what the criteria say of each layer, from checkpoints.

With `--audit`, whether they are right: both geometries are tried on every weight. With
`--curvature_of_loss`, how the loss bends at each checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jopt.errors import CheckpointError, ConfigError, DataError, print_error
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE

CRITERIA = ("spec_sign", "nuclear_stable", "noise_scale")
MODES = ("directional", "worst_case", "dimension", "none")


def main(argv: Sequence[str]) -> int:
    """Prints a table and writes it to the folder `probe` of the run; nothing else."""
    args = _parser().parse_args(argv)
    try:
        print(_probe(args))
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except (CheckpointError, DataError, OSError) as error:
        print_error(error)
        return EXIT_FAILURE
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt probe",
        description="What the criteria say of each layer of a run, computed from its "
        "checkpoints on training batches that come after them. Writes "
        "RUN/probe/criteria.csv and .json, with --audit audit.csv and .json, with "
        "--curvature_of_loss curvature.csv and .json.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--criterion", choices=CRITERIA, default="spec_sign", help="that is shown"
    )
    parser.add_argument(
        "--curvature",
        choices=MODES,
        default="directional",
        help="of the Spec-Sign index that is shown; directional by default",
    )
    parser.add_argument(
        "--windows",
        type=_positive,
        default=2,
        help="batches of the run's size to average over; 2",
    )
    parser.add_argument(
        "--step",
        type=int,
        action="append",
        default=[],
        help="checkpoint; all if absent",
    )
    parser.add_argument(
        "--token_grams",
        action="store_true",
        help="also of embeddings: a (vocabulary, vocabulary) matrix",
    )
    parser.add_argument(
        "--audit",
        action="store_true",
        help="compare every rule with the decrease of the loss on held-out batches",
    )
    parser.add_argument(
        "--held_out",
        type=_several,
        default=6,
        help="later batches on which the audit measures; 6",
    )
    parser.add_argument(
        "--line_search",
        choices=("held_out", "own"),
        default="held_out",
        help="what chooses the size of a step in the audit: half of the later batches "
        "(the other half judges), or the batch that its direction is from",
    )
    parser.add_argument(
        "--curvature_of_loss",
        action="store_true",
        help="ends and trace of the Hessian and the stability ratio, as "
        "monitor.curvature of the run says",
    )
    parser.add_argument(
        "--num_examples",
        type=_positive,
        help="of --curvature_of_loss; those of the run's config",
    )
    parser.add_argument(
        "--num_matvecs",
        type=_positive,
        help="of --curvature_of_loss; those of the run's config",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _several(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is not 2 or more")
    return value


def _probe(args: argparse.Namespace) -> str:
    from jopt.studies._probed_run import open_run

    with open_run(args.run) as run:
        # These import JAX, for which flags had to be set.
        if args.audit:
            from jopt.studies._audit_report import audit

            return audit(
                run,
                steps=args.step,
                windows=args.windows,
                held_out=args.held_out,
                line_search=args.line_search,
                token_grams=args.token_grams,
            )
        if args.curvature_of_loss:
            from jopt.studies._curvature_report import curvature_report

            return curvature_report(
                run,
                steps=args.step,
                num_examples=args.num_examples,
                num_matvecs=args.num_matvecs,
            )
        from jopt.studies._criteria_report import report

        return report(
            run,
            criterion=args.criterion,
            curvature=args.curvature,
            steps=args.step,
            windows=args.windows,
            token_grams=args.token_grams,
        )
