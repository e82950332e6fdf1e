"""The factor on every learning rate, as a function of the step."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, check_choice
from jopt.optimizers._config import read

SCHEDULES = ("constant", "warmup_stable_decay", "cosine", "table")


def schedule_from_config(train: Any) -> optax.Schedule:
    """The factor on the peak learning rate that `config.train` describes.

    `train.schedule.name` is one of

    - `constant`: 1 after the warm-up. The default.
    - `warmup_stable_decay`: 1, then linear over the last `decay` steps.
    - `cosine`: half a cosine from the end of the warm-up.
    - `table`: `factors` at `fractions` of the run, with straight lines between them;
      the first and the last go on before and after. Where there are none they are read
      from the file `path`, see `read_table`. `decay` and `final` do not count.

    The second and the third end at `final` (a fraction of the peak, default 0), which
    is the value at step `train.steps`, one after the last. During the `warmup` first
    steps the factor is (step + 1) / warmup, so no step is wasted on a rate of 0.
    `warmup` and `decay` are steps above 1, and fractions of `train.steps` up to 1.

    Fails: `ConfigError` for an unknown name, a value outside its range, a warm-up and a
    decay that together exceed `train.steps`, or a table that cannot be read.

    >>> schedule = schedule_from_config(
    ...     {"steps": 8, "schedule": {"name": "warmup_stable_decay", "warmup": 2,
    ...                               "decay": 0.5}})
    >>> [round(float(schedule(t)), 3) for t in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    name = read(train, "schedule.name", "constant")
    check_choice("train.schedule.name", name, SCHEDULES)
    total = read(train, "steps")
    warmup = _steps(train, "warmup", total)
    decay = _steps(train, "decay", total) if name == "warmup_stable_decay" else 0
    final = read(train, "schedule.final", 0.0)
    if name == "constant":
        return lambda step: _warmup(step, warmup)
    if total is None:
        raise ConfigError(f"train.schedule.name {name!r} needs train.steps")
    if name == "table":
        fractions, values = _table(train)
        return lambda step: (
            _warmup(step, warmup)
            * jnp.interp(
                jnp.asarray(step, jnp.float32) / total,
                jnp.asarray(fractions, jnp.float32),
                jnp.asarray(values, jnp.float32),
            )
        )
    if warmup + decay > total:
        raise ConfigError(
            f"train.schedule: warmup of {warmup} and decay of {decay} steps exceed "
            f"train.steps = {total}; lower one of them"
        )

    def factor(step: jax.typing.ArrayLike) -> jax.Array:
        start = warmup if name == "cosine" else total - decay
        span = max(total - start, 1)
        progress = jnp.clip((jnp.asarray(step, jnp.float32) - start) / span, 0.0, 1.0)
        if name == "cosine":
            progress = (1 - jnp.cos(math.pi * progress)) / 2
        return _warmup(step, warmup) * (1 - (1 - final) * progress)

    return factor


def read_table(path: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fractions and values in a CSV file with the columns `fraction` and `value`.

    `python -m jopt probe RUN --paths` and `PathTrace.save_schedule` write such files.

    Fails: `ConfigError` for a file that is not there, or holds something else, or whose
    fractions do not ascend within [0, 1], or whose values are negative.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "own.csv")
    ...     _ = path.write_text("fraction,value\\n0.0,1.0\\n0.5,0.25\\n")
    ...     read_table(path)
    ((0.0, 0.5), (1.0, 0.25))
    """
    where = f"train.schedule.path {str(path)!r}"
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [
                (float(r["fraction"]), float(r["value"])) for r in csv.DictReader(file)
            ]
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{where} is no table of a schedule; a CSV file with the columns fraction "
            "and value is expected, as `python -m jopt probe RUN --paths` writes it"
        ) from None
    fractions, values = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
    if faults := _table_faults(fractions, values):
        raise ConfigError(f"{where}: {faults}")
    return fractions, values


def _table(train: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    fractions = tuple(read(train, "schedule.fractions", ()))
    values = tuple(read(train, "schedule.factors", ()))
    if fractions or values:
        if faults := _table_faults(fractions, values):
            raise ConfigError(f"train.schedule.fractions and .factors: {faults}")
        return fractions, values
    path = read(train, "schedule.path")
    if path is None:
        raise ConfigError(
            "train.schedule.name 'table' needs train.schedule.path, a file, or "
            "train.schedule.fractions and train.schedule.factors"
        )
    return read_table(path)


def _table_faults(fractions: tuple[float, ...], values: tuple[float, ...]) -> str:
    if not fractions or len(fractions) != len(values):
        return (
            f"{len(fractions)} fractions and {len(values)} factors; as many of both "
            "are expected, at least one"
        )
    inside = all(0 <= f <= 1 for f in fractions)
    if not inside or any(b <= a for a, b in itertools.pairwise(fractions)):
        return "the fractions of a run must ascend within [0, 1]"
    if not all(0 <= v < math.inf for v in values):
        return "a factor on a learning rate must be finite and not negative"
    return ""


def is_learning_rate(argument: str) -> bool:
    """Whether an argument of an optimizer is a learning rate, by its name.

    >>> is_learning_rate("learning_rate"), is_learning_rate("sign_learning_rate")
    (True, True)
    >>> is_learning_rate("b1")
    False
    """
    return argument == "learning_rate" or argument.endswith("_learning_rate")


def _warmup(step: jax.typing.ArrayLike, warmup: int) -> jax.Array:
    done = jnp.asarray(step, jnp.float32) + 1
    return jnp.minimum(done / max(warmup, 1), 1.0)


def _steps(train: Any, key: str, total: int | None) -> int:
    value = read(train, f"schedule.{key}", 0)
    if value < 0:
        raise ConfigError(f"train.schedule.{key} is {value}; expected 0 or more")
    if value > 1:
        return round(value)
    if value and total is None:
        raise ConfigError(
            f"train.schedule.{key} = {value} is a fraction of train.steps, which is "
            "not set"
        )
    return round(value * total) if value else 0
