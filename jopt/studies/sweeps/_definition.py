"""The shape of a sweep's config, its checks, and the jobs that it asks for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import ConfigError, did_you_mean
from jopt.studies.sweeps._identity import identify
from jopt.studies.sweeps._samplers import SAMPLERS, sample
from jopt.studies.sweeps._space import Dist, nested
from jopt.training._config import flatten, unknown_key

TUNE, FINAL = "tune", "final"
# Seeds are the sweep's, so that all arms get the same ones.
_NOT_YOURS = ("seed",)


def default_sweep() -> ConfigDict:
    """Every key of a sweep's config, with its default; `arms` must be filled."""
    return ConfigDict(
        {
            # Result to make small: a name in the result of status.json.
            "metric": "eval/bits_per_byte",
            "sampler": "halton",  # or sobol, random, grid
            "sampler_seed": 0,
            "significant_digits": 3,  # kept of a sampled float
            "trials": 8,  # of each arm: its tuning budget
            "seeds": (0,),  # of each trial
            "overrides": {},  # of all jobs
            "arms": {},  # name -> arm(...)
            # The best trial of each arm again, on seeds that tuned nothing. `size`
            # replaces the last word after the `:` of the arm's config; "" keeps it.
            "final": {"size": "", "seeds": (), "overrides": {}},
        }
    )


def arm(
    train_config: str,
    space: Mapping[str, Dist],
    overrides: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """One side of a comparison.

    Args:
        train_config: `FILE` or `FILE:SIZE`, as for `python train.py --config=`.
        space: dotted key of that config -> distribution.
        overrides: dotted key -> value, for all jobs of this arm.
    """
    return ConfigDict(
        {
            "train_config": train_config,
            "space": nested(space),
            "overrides": nested(overrides or {}),
        }
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """One run that a sweep asks for.

    Attributes:
        id: 16 hex digits of its resolved config, the name of its folder.
        tokens: that it trains on.
        stage: `tune` or `final`.
        arm, trial, seed: which of them.
        values: what was sampled, by dotted key.
        flags: the command line of the run, without its folder.
    """

    id: str
    tokens: int
    stage: str
    arm: str
    trial: int
    seed: int
    values: dict[str, Any]
    flags: tuple[str, ...]

    def __str__(self) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.values.items())
        return f"{self.stage} {self.arm} trial {self.trial} seed {self.seed} {values}"


def validate_sweep(config: ConfigDict) -> None:
    """Checks a sweep's config; one `ConfigError` lists all the faults."""
    if faults := list(_faults(config)):
        raise ConfigError("\n".join(faults))


def _faults(config: ConfigDict) -> Iterator[str]:
    open_groups = ("arms", "overrides", "final.overrides")
    known = dict(flatten(default_sweep()))
    present = {
        key: value
        for key, value in flatten(config)
        if not key.startswith(tuple(f"{group}." for group in open_groups))
    }
    wrong = [unknown_key(key, known) for key in present.keys() - known.keys()]
    missing = known.keys() - present.keys() - set(open_groups)
    wrong += [f"key {key} is missing; start from default_sweep()" for key in missing]
    yield from sorted(wrong)
    if wrong:
        return
    if config.sampler not in SAMPLERS:
        hint = did_you_mean(config.sampler, SAMPLERS)
        yield f"sampler is {config.sampler!r}; known: {', '.join(SAMPLERS)}{hint}"
    for key in ("trials", "significant_digits"):
        if config[key] < 1:
            yield f"{key} is {config[key]}; it must be at least 1"
    if not config.seeds:
        yield "seeds is empty; each trial needs at least one, for example (0,)"
    if again := sorted(set(config.seeds) & set(config.final.seeds)):
        yield f"final.seeds {again} also tune; seeds that tuned prove nothing"
    if not config.arms:
        yield "arms is empty; name at least one, see jopt.studies.arm"
    for name, value in config.arms.items():
        yield from _arm_faults(name, value)
    for key in ("overrides", "final.overrides"):
        group = config.overrides if key == "overrides" else config.final.overrides
        yield from (f"{key}.{own} is set by the sweep" for own in _owned(group))


def _arm_faults(name: str, value: Any) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        yield f"arms.{name}: letters, digits, - and _ are expected in a name"
    if not isinstance(value, ConfigDict) or set(value) != set(arm("", {})):
        yield f"arms.{name} is not made by jopt.studies.arm(train_config, space)"
        return
    for key, dist in flatten(value.space):
        if not isinstance(dist, Dist):
            yield f"arms.{name}.space.{key} is {dist!r}; a distribution is expected"
    for group in ("space", "overrides"):
        yield from (
            f"arms.{name}.{group}.{own} is set by the sweep"
            for own in _owned(value[group])
        )


def _owned(group: ConfigDict) -> list[str]:
    return [key for key in _NOT_YOURS if key in group]


def tuning_jobs(config: ConfigDict) -> list[Job]:
    """The trials of all arms, one of each arm in turn, so that budgets grow together.

    Fails: `ConfigError` where a job's command line would, with the job.
    """
    points = {name: _points(config, name) for name in config.arms}
    return _jobs(
        config,
        TUNE,
        [
            (name, trial, seed, points[name][trial])
            for trial in range(config.trials)
            for name in config.arms
            for seed in config.seeds
        ],
    )


def _points(config: ConfigDict, name: str) -> list[dict[str, Any]]:
    try:
        return sample(
            dict(flatten(config.arms[name].space)),
            config.sampler,
            config.trials,
            seed=config.sampler_seed,
            digits=config.significant_digits,
        )
    except ConfigError as error:
        raise ConfigError(f"arms.{name}.space: {error}") from None


def final_jobs(config: ConfigDict, best: Mapping[str, Job]) -> list[Job]:
    """The best trial of each arm, on the fresh seeds."""
    return _jobs(
        config,
        FINAL,
        [
            (name, best[name].trial, seed, best[name].values)
            for seed in config.final.seeds
            for name in config.arms
        ],
    )


def _jobs(
    config: ConfigDict, stage: str, wanted: Sequence[tuple[str, int, int, dict]]
) -> list[Job]:
    flags = [
        _flags(config, stage, name, seed, values) for name, _, seed, values in wanted
    ]
    names = [
        f"{stage} {name} trial {trial} seed {seed}" for name, trial, seed, _ in wanted
    ]
    return [
        Job(job_id, tokens, stage, name, trial, seed, values, line)
        for (job_id, tokens), (name, trial, seed, values), line in zip(
            identify(flags, names), wanted, flags, strict=True
        )
    ]


def _flags(
    config: ConfigDict, stage: str, name: str, seed: int, values: Mapping[str, Any]
) -> tuple[str, ...]:
    """What follows `python -m jopt train`; a later flag of a key wins."""
    reference = config.arms[name].train_config
    settings = [*flatten(config.overrides), *flatten(config.arms[name].overrides)]
    if stage == FINAL:
        settings += flatten(config.final.overrides)
        if config.final.size:
            reference = resized(reference, config.final.size)
    merged = {**dict(settings), **values, "seed": seed}
    return (
        f"--config={reference}",
        *(f"--config.{key}={_text(key, value)}" for key, value in merged.items()),
    )


def resized(reference: str, size: str) -> str:
    """The same config of another size: the last word behind its `:` is the size.

    >>> resized("configs/muon_lm.py:micro", "tiny")
    'configs/muon_lm.py:tiny'
    >>> resized("configs/family_lm.py:soap,micro", "tiny")
    'configs/family_lm.py:soap,tiny'
    """
    file, _, argument = reference.partition(":")
    *others, _ = argument.split(",")
    return f"{file}:{','.join([*others, size])}"


def _text(key: str, value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float | tuple):
        return str(value)
    raise ConfigError(
        f"{key} is {value!r}; text, a number, a truth value or a tuple is expected"
    )
