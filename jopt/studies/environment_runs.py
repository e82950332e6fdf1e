"""Runs over environments, as model selection reads them."""

from __future__ import annotations

import os
from pathlib import Path

from jopt.errors import ConfigError
from jopt.reporting import read_metrics
from jopt.studies.selection import Run
from jopt.training._config import flatten, with_later_keys
from jopt.training._environment_keys import environments_of, is_on
from jopt.training._run_folder import read_config

_PREFIX = "eval/"
# What runs to select among may differ by. A batch has equally many rows of each
# training environment, and of these there is one less where one more is left out: what
# two such runs share is the number of rows of each.
_OWN = ("data.test_envs", "data.trial_seed", "train.batch_size")
_ROWS = "rows of each training environment"


def run_of(folder: str | os.PathLike[str]) -> Run:
    """The evaluations of a run's folder, for `jopt.studies.selection`.

    A record has `step` and what the run knows of each part of each environment; means,
    among which are those of the test, are left out. A periodic evaluation of a run is
    of `eval.batches` batches of a part. The settings are those of the config but for
    test environments and trial seed, with the rows of each training environment in the
    place of `train.batch_size`: so runs that leave out further environments, as
    `leave_one_out` reads them, share their settings.

    Fails: `ConfigError` where no run is, or one without an algorithm over environments.
    """
    folder = Path(folder)
    config, _ = with_later_keys(read_config(folder))
    if not is_on(config):
        raise ConfigError(
            f"{folder} is no run over environments (objective.algorithm.name is 'none')"
        )
    records = [
        {"step": record["step"]}
        | {
            name.removeprefix(_PREFIX): value
            for name, value in record.items()
            if name.startswith(f"{_PREFIX}env")
        }
        for record in read_metrics(folder / "metrics.jsonl")
        if f"{_PREFIX}env0_in_acc" in record
    ]
    found = environments_of(config)
    settings = {key: str(x) for key, x in flatten(config) if key not in _OWN}
    settings[_ROWS] = str(config.train.batch_size // len(found.train_envs))
    return Run(
        key=folder.name,
        test_envs=found.test_envs,
        records=records,
        trial_seed=config.data.trial_seed,
        settings=tuple(sorted(settings.items())),
    )
