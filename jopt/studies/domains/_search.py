"""Which trials a study of optimizers has: settings drawn, and put into buckets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jopt.data.environments import DomainTask
from jopt.errors import ConfigError, DataError, check_choice
from jopt.studies.domains._bucket import Bucket, Trial
from jopt.studies.domains._levels import LEVELS, resolved
from jopt.studies.domains._metrics import METRICS
from jopt.studies.sweeps._algorithm_spaces import algorithm_space
from jopt.studies.sweeps._samplers import sample
from jopt.studies.sweeps._space import Dist, choice

OPTIM = "optim."  # before the name of a setting of the optimizer
ALGORITHMS = ("erm", "irm")
DIGITS = 6  # significant ones of a setting
LANES = 20  # of a bucket, at most: what is lost when a process is killed


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        trials: of each algorithm and optimizer.
        batch_sizes: rows of each training environment; each is a program of its own.
            Those that an environment of the task is too small for are left out.
        width: of the model.
        num_steps, eval_every: of a trial; None: the task's.
        optimizers: keys of `LEVELS`.
        evaluated: as in `Bucket`.
    """

    trials: int
    batch_sizes: tuple[int, ...] = (64,)
    width: int = 64
    num_steps: int | None = None
    eval_every: int | None = None
    optimizers: tuple[str, ...] = tuple(LEVELS)
    evaluated: int = 0


TEXT_LEVELS = ("momentum", "adam", "muon", "signum")
# By what a task is judged by: images, then text.
SIZES = {
    "accuracy": {
        "smoke": Size(4, (16,), 8, 20, 10, ("sgd", "adam")),
        "default": Size(20),
        "full": Size(60, (16, 64, 256), 64, 5001, 100),
    },
    "bits_per_byte": {
        "smoke": Size(3, (2,), 8, 10, 5, ("sgd", "adam"), evaluated=4),
        "default": Size(20, (2,), 32, 500, 250, TEXT_LEVELS, evaluated=16),
        "full": Size(20, (8,), 96, 500, 100, evaluated=128),
    },
}
SIZE_NAMES = tuple(SIZES["accuracy"])


class Wanted(NamedTuple):
    """What a study is asked for.

    Attributes:
        task: a key of `jopt.data.environments.TASKS`.
        size: one of `SIZE_NAMES`.
        trials: 0 for those of the size.
        optimizers, algorithms: keys; none for those of the size, and `ALGORITHMS`.
        seed: of the search and of the parts of the environments.
    """

    task: str
    size: str = "default"
    trials: int = 0
    optimizers: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    seed: int = 0


def buckets(wanted: Wanted, task: DomainTask) -> dict[str, Bucket]:
    """The buckets of a study by name, the same every time.

    Fails: `ConfigError` for an unknown name, and where an environment is smaller than
    the smallest batch.
    """
    check_choice("size", wanted.size, SIZE_NAMES)
    check_choice("metric", task.metric, METRICS)
    size = _fitting(SIZES[task.metric][wanted.size], task, wanted.seed)
    optimizers = wanted.optimizers or size.optimizers
    algorithms = wanted.algorithms or ALGORITHMS
    for optimizer in optimizers:
        check_choice("optimizer", optimizer, LEVELS)
    for algorithm in algorithms:
        check_choice("algorithm", algorithm, ALGORITHMS)
    found: dict[str, Bucket] = {}
    for algorithm in algorithms:
        for optimizer in optimizers:
            found |= _cell(wanted, size, task, algorithm, optimizer)
    return found


def _fitting(size: Size, task: DomainTask, seed: int) -> Size:
    """The size with those of its batches that every training environment can fill."""
    least = min(size.batch_sizes)
    try:
        task.streams(seed, seed, task.default_test_envs, rows=least)
    except DataError as error:
        raise ConfigError(f"{task.name}: {error}") from error
    parts = task.parts(seed)
    most = min(parts[e].inside.size for e in task.default_train_envs)
    return size._replace(batch_sizes=tuple(b for b in size.batch_sizes if b <= most))


def _cell(
    wanted: Wanted, size: Size, task: DomainTask, algorithm: str, optimizer: str
) -> dict[str, Bucket]:
    """The buckets of one algorithm and optimizer."""
    steps = size.num_steps or task.num_steps
    drawn = sample(
        _space(algorithm, optimizer, size, steps, len(task.default_train_envs)),
        "halton",
        wanted.trials or size.trials,
        seed=wanted.seed,
        digits=DIGITS,
    )
    by_batch: dict[int, list[Trial]] = {}
    for number, settings in enumerate(drawn):
        batch_size = settings.pop("batch_size")
        by_batch.setdefault(batch_size, []).append(Trial(number, _named(settings)))
    return {
        f"{algorithm}-{optimizer}-{batch_size}-{begin // LANES}": Bucket(
            wanted.task,
            algorithm,
            optimizer,
            batch_size,
            size.width,
            steps,
            size.eval_every or task.eval_every,
            wanted.seed,
            size.evaluated,
            tuple(trials[begin : begin + LANES]),
        )
        for batch_size, trials in sorted(by_batch.items())
        for begin in range(0, len(trials), LANES)
    }


def _space(
    algorithm: str, optimizer: str, size: Size, steps: int, environments: int
) -> dict[str, Dist]:
    of_algorithm = algorithm_space(algorithm, steps, environments=environments)
    return {
        "batch_size": choice(*size.batch_sizes),
        **{f"{OPTIM}{name}": dist for name, dist in LEVELS[optimizer].space.items()},
        **{f"algorithm.{name}": dist for name, dist in of_algorithm.items()},
    }


def _named(drawn: Mapping[str, float]) -> dict[str, float]:
    optim = {k.removeprefix(OPTIM): v for k, v in drawn.items() if k.startswith(OPTIM)}
    rest = {k: float(v) for k, v in drawn.items() if not k.startswith(OPTIM)}
    return {f"{OPTIM}{k}": float(v) for k, v in resolved(optim).items()} | rest
