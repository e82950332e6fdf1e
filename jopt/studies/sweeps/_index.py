"""`sweep.json`: what a sweep asked for and which run is which, for later readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.reporting import read_json, write_json
from jopt.studies.sweeps._definition import FINAL, TUNE, Job
from jopt.training._config import flatten

INDEX = "sweep.json"
SLURM = "slurm"  # folder of what its tasks on a cluster print


def is_sweep(folder: Path) -> bool:
    return (folder / INDEX).exists()


def read_index(folder: Path) -> dict[str, Any]:
    """Fails: `ConfigError` where the folder has no sweep."""
    if not is_sweep(folder):
        raise ConfigError(f"{folder} holds no sweep (no {INDEX})")
    index = read_json(folder / INDEX)
    if "jobs" not in index or "arms" not in index:
        raise ConfigError(f"{folder / INDEX} was not written by jopt")
    return index


def write_index(
    folder: Path, name: str, config: ConfigDict, jobs: Sequence[Job]
) -> dict[str, Any]:
    """Writes what the sweep asks for by now, and returns it.

    A sweep may have grown (more trials, more seeds) since the file was written.

    Fails: `ConfigError` when the folder holds something else, or a sweep with tuning
    jobs that this one has not.
    """
    index = _index(name, config, jobs)
    if is_sweep(folder):
        _check_grown(folder, index)
    else:
        refuse_foreign(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / INDEX, index)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}; choose another with "
            "--workdir=FOLDER"
        ) from None
    return index


def refuse_foreign(folder: Path) -> None:
    """Fails: `ConfigError` where the folder holds something else than a sweep."""
    if not is_sweep(folder) and folder.exists() and _foreign(folder):
        raise ConfigError(
            f"{folder} is not empty and holds no sweep (no {INDEX}); choose another "
            "with --workdir=FOLDER"
        )


def _foreign(folder: Path) -> list[str]:
    """What is there besides a `sweep.json` that another process writes just now."""
    names = [path.name for path in folder.iterdir()]
    ours = (INDEX, f".{INDEX}.")
    return [name for name in names if name != SLURM and not name.startswith(ours)]


def _index(name: str, config: ConfigDict, jobs: Sequence[Job]) -> dict[str, Any]:
    return {
        "name": name,
        "metric": config.metric,
        "sampler": config.sampler,
        "trials": config.trials,
        "seeds": list(config.seeds),
        "final_seeds": list(config.final.seeds),
        "arms": {
            arm: {
                "train_config": value.train_config,
                "space": {key: str(dist) for key, dist in flatten(value.space)},
                "tuning": tuning(config.trials, jobs, arm),
            }
            for arm, value in config.arms.items()
        },
        "jobs": [
            {
                "id": job.id,
                "stage": job.stage,
                "arm": job.arm,
                "trial": job.trial,
                "seed": job.seed,
                "values": job.values,
            }
            for job in jobs
        ],
    }


def tuning(trials: int, jobs: Sequence[Job], arm: str) -> dict[str, int]:
    """What an arm spends on tuning: trials, different runs, and tokens of these."""
    tokens = {j.id: j.tokens for j in jobs if j.stage == TUNE and j.arm == arm}
    return {"trials": trials, "runs": len(tokens), "tokens": sum(tokens.values())}


def job_records(index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each run is told about its sweep, by id; kept in the run's config.json."""
    return {
        job["id"]: {
            "name": index["name"],
            "sampler": index["sampler"],
            **{key: job[key] for key in ("stage", "arm", "trial", "values")},
            "tuning": index["arms"][job["arm"]]["tuning"],
        }
        for job in reversed(index["jobs"])  # of two arms with one run, the first
    }


def _check_grown(folder: Path, index: Mapping[str, Any]) -> None:
    def tuned(record: Mapping[str, Any]) -> dict[tuple, str]:
        return {
            (job["arm"], job["trial"], job["seed"]): job["id"]
            for job in record["jobs"]
            if job["stage"] == TUNE
        }

    there, now = tuned(read_index(folder)), tuned(index)
    lost = [key for key, job in there.items() if now.get(key) != job]
    if lost:
        arm, trial, seed = lost[0]
        raise ConfigError(
            f"{folder} holds another sweep: trial {trial} of arm {arm} with seed "
            f"{seed}, and {len(lost) - 1} more jobs, differ. A sweep may get more "
            "trials, seeds and arms there; for another one choose --workdir=FOLDER"
        )


def result(folder: Path, metric: str) -> float:
    """The result of a run: infinity when it diverged, NaN while it has none.

    Fails: `ConfigError` when the run has results and this is not one of them.
    """
    path = folder / "status.json"
    if not path.exists():
        return math.nan
    status = read_json(path)
    if status["state"] == "diverged":
        return math.inf
    if status["state"] != "done":
        return math.nan
    if metric not in status["result"]:
        raise ConfigError(
            f"{folder} has no result {metric!r}; present: "
            f"{', '.join(sorted(status['result']))}"
        )
    return float(status["result"][metric])


def trial_means(
    folder: Path, index: Mapping[str, Any], metric: str
) -> dict[str, dict[int, float]]:
    """By arm and trial the mean of a metric over the tuning seeds.

    Infinite where a run diverged, NaN while one has no result.
    """
    values: dict[str, dict[int, list[float]]] = {arm: {} for arm in index["arms"]}
    for job in index["jobs"]:
        if job["stage"] == TUNE:
            value = result(folder / job["id"], metric)
            values[job["arm"]].setdefault(job["trial"], []).append(value)
    return {
        arm: {trial: sum(found) / len(found) for trial, found in trials.items()}
        for arm, trials in values.items()
    }


def best_trials(folder: Path, index: Mapping[str, Any]) -> dict[str, int]:
    """The trial of each arm with the smallest mean over its tuning seeds.

    A diverged run counts as infinite; of equal trials the first is taken.
    """
    return {
        arm: min(trials, key=lambda trial: (trials[trial], trial))
        for arm, trials in trial_means(folder, index, index["metric"]).items()
    }


def compared_jobs(folder: Path, index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs that a comparison is about: the final ones, else each best trial's."""
    final = [job for job in index["jobs"] if job["stage"] == FINAL]
    if final or index["final_seeds"]:
        return final
    best = best_trials(folder, index)
    return [job for job in index["jobs"] if job["trial"] == best[job["arm"]]]
