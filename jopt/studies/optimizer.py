"""The optimizer as a factor of accuracy out of distribution.

  python -m jopt study optimizer --task=coloured_digits --trials=20
  python -m jopt study optimizer --size=full --task=rotated_mnist5k
  python -m jopt study optimizer --task=genres

Naganuma et al., 2023, arXiv 2211.08583, with more optimizers and on tasks whose data is
in packages. Trials that differ in numbers alone are lanes of one compiled program.

FOLDER/rows.csv      a record a line: trial, settings, step, figures of environments
FOLDER/tables/       each analysis as CSV
FOLDER/figures/      each figure, with matplotlib
FOLDER/report.html   all of it on one page that opens offline
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from jopt.data.environments import TASKS, load_task
from jopt.errors import ConfigError, DataError
from jopt.studies._experiment import Experiment
from jopt.studies._flags import names_of
from jopt.studies.domains._bucket import Bucket, run_bucket
from jopt.studies.domains._levels import LEVELS
from jopt.studies.domains._report import summarize
from jopt.studies.domains._search import (
    ALGORITHMS,
    SIZE_NAMES,
    Wanted,
    buckets,
)


def configured(size: str, flags: Sequence[str]) -> tuple[Experiment, list[str]]:
    """The study that these flags ask for, and the flags that are not its own.

    Fails: `ConfigError` for an unknown name, and where the data of the task is not
    there, with the command that fetches it.

    >>> experiment, rest = configured("smoke", ["--trials=2", "--dry_run"])
    >>> list(experiment.chunks("smoke")), rest
    (['erm-sgd-16-0', 'erm-adam-16-0', 'irm-sgd-16-0', 'irm-adam-16-0'], ['--dry_run'])
    """
    args, rest = _parser().parse_known_args(flags)
    if args.trials is not None and args.trials < 1:
        raise ConfigError(f"--trials: expected at least 1, found {args.trials}")
    wanted = Wanted(
        args.task, size, args.trials or 0, args.optimizers, args.algorithms, args.seed
    )
    try:
        task = load_task(args.task)
    except DataError as error:
        raise ConfigError(str(error)) from error

    def chunks(size: str) -> Mapping[str, Bucket]:
        return buckets(wanted._replace(size=size), task)

    chunks(size)  # says what is wrong before anything is started
    judged = partial(summarize, task)
    return Experiment(chunks, run_bucket, judged, label=args.task), rest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--task", default="coloured_digits", help=f"one of {', '.join(TASKS)}")
    add("--trials", type=int, help="of each algorithm and optimizer")
    add("--optimizers", type=names_of, default=(), help=", ".join(LEVELS))
    add("--algorithms", type=names_of, default=(), help=", ".join(ALGORITHMS))
    add("--seed", type=int, default=0, help=f"sizes: {', '.join(SIZE_NAMES)}")
    return parser
