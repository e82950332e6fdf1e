"""`python -m jopt probe RUN`: what the criteria say of each layer, from checkpoints.

With `--audit`, whether they are right: both geometries are tried on every weight. With
`--paths`, whether the gradients of a finished run point away from its end. With
`--curvature_of_loss`, how the loss bends at each checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jopt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ReplayError,
    print_error,
)
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
    except (CheckpointError, DataError, ReplayError, OSError) as error:
        print_error(error)
        return EXIT_FAILURE
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt probe",
        description="What the criteria say of each layer of a run, computed from its "
        "checkpoints on training batches that come after them. Writes "
        "RUN/probe/criteria.csv and .json, with --audit audit.csv and .json, with "
        "--paths paths.csv, .json and .svg, and schedule.csv, with "
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
        help="checkpoint; all if absent, with --paths the newest",
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
    paths = parser.add_argument_group(
        "paths", "the run is replayed from step 0 and looked at from its end"
    )
    paths.add_argument("--paths", action="store_true", help="RSI, EB and gamma")
    paths.add_argument(
        "--every", type=_positive, default=1, help="steps between points; 1"
    )
    paths.add_argument(
        "--references",
        choices=("replay", "checkpoints"),
        default="replay",
        help="points at steps of a replay, or at the run's checkpoints without one",
    )
    paths.add_argument(
        "--fresh", action="store_true", help="also on a batch that no step has used"
    )
    paths.add_argument(
        "--full_every",
        type=_positive,
        metavar="N",
        help="also the gradient of a whole epoch, every N steps",
    )
    paths.add_argument(
        "--lags",
        action="store_true",
        help="how long the off-path component lasts; keeps 50 gradients in memory",
    )
    paths.add_argument(
        "--smooth",
        type=float,
        default=0.95,
        help="decay a step of the average in the exported schedule; 0.95",
    )
    curvature = parser.add_argument_group(
        "curvature", "the loss at each checkpoint, as monitor.curvature of the run says"
    )
    curvature.add_argument(
        "--curvature_of_loss",
        action="store_true",
        help="ends and trace of the Hessian and the stability ratio",
    )
    curvature.add_argument(
        "--num_examples",
        type=_positive,
        help="those of the run's config, else a batch",
    )
    curvature.add_argument(
        "--num_matvecs",
        type=_positive,
        help="those of the run's config",
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
    from jopt.studies.probing._probed_run import open_run

    with open_run(args.run) as run:
        # These import JAX, for which flags had to be set.
        if args.paths:
            from jopt.landscape.paths import LAGS
            from jopt.studies.probing._path_report import report as paths

            return paths(
                run,
                steps=args.step,
                every=args.every,
                references=args.references,
                fresh=args.fresh,
                full_every=args.full_every or 0,
                lags=LAGS if args.lags else (),
                smooth=args.smooth,
            )
        if args.audit:
            from jopt.studies.probing._audit_report import audit

            return audit(
                run,
                steps=args.step,
                windows=args.windows,
                held_out=args.held_out,
                line_search=args.line_search,
                token_grams=args.token_grams,
            )
        if args.curvature_of_loss:
            from jopt.studies.probing._curvature_report import curvature_report

            return curvature_report(
                run,
                steps=args.step,
                num_examples=args.num_examples,
                num_matvecs=args.num_matvecs,
            )
        from jopt.studies.probing._criteria_report import report

        return report(
            run,
            criterion=args.criterion,
            curvature=args.curvature,
            steps=args.step,
            windows=args.windows,
            token_grams=args.token_grams,
        )
