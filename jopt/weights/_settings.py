"""What a merge of files is asked to do: its config, and every fault of one at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jopt.errors import ConfigError, did_you_mean, import_name
from jopt.training._config import flatten, unknown_key
from jopt.weights._names import Rule, rules_from
from jopt.weights._recipe import Recipe
from jopt.weights._safetensors import FLOATS
from jopt.weights._views import View, view_faults, view_from
from jopt.weights._write import SHARD_BYTES, out_fault

STATISTICS = ("error", "base", "average")
OUT_NAMES = ("same", "flax")
_MODEL_KEYS = ("path", "weight", "name")
# Their keys belong to the method.
_OPEN = ("kwargs",)


def default_merge() -> ConfigDict:
    """Every key of a merge of files, with its default.

    >>> default_merge().method
    'task_arithmetic'
    """
    return ConfigDict(
        {
            "base": placeholder(str),  # the pre-trained parameters
            # Paths, or dicts {path, weight, name}; a name is the path's last word.
            "models": (),
            "method": "task_arithmetic",
            "kwargs": {},  # arguments of the method
            # Dicts {name, ...arguments}: a chain of merge transforms, not a method.
            "stages": (),
            "scale": placeholder(float),  # lambda; 1.0 where nothing else is said
            # Or the scale of `grid` that scores highest: `package.module:function`
            # from (params, state) to a score, or to one score for each task.
            "search": {"evaluate": "", "grid": tuple(np.linspace(0, 1, 21).tolist())},
            # Leaves whose path has one of `where` and none of `keep_base` are merged;
            # the rest, heads for example, stay the base's. Regular expressions.
            "where": (".*",),
            "keep_base": (),
            "strict": True,  # False: merge the leaves that all have in one shape
            "batch_stats": "error",  # or base, average
            # Rules (match, kind, name, heads) from torch modules to Flax; empty: names
            # are used as they are.
            "names": (),
            # Dicts {match, reduction_axes, output_axes}, for methods that see matrices.
            "matrix_specs": (),
            "out_names": "same",  # as in the base's file, or flax
            "dtype": "",  # of merged leaves; empty: the base's
            # X.safetensors, X/model.safetensors.index.json, or a folder for Orbax.
            "out": placeholder(str),
            "shard_bytes": SHARD_BYTES,
            "seed": 0,  # of methods that draw
        }
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the models that are merged."""

    path: Path
    name: str
    weight: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config, see `default_merge`; `scale` is None where it is searched."""

    base: Path
    tasks: tuple[Task, ...]
    recipe: Recipe
    scale: float | None
    evaluate: str
    grid: tuple[float, ...]
    where: tuple[str, ...]
    keep_base: tuple[str, ...]
    strict: bool
    batch_stats: str
    rules: tuple[Rule, ...]
    views: tuple[View, ...]
    out_names: str
    dtype: np.dtype | None
    out: Path
    shard_bytes: int
    seed: int

    def is_merged(self, path: str) -> bool:
        """Whether the regular expressions choose a leaf."""
        return _any(self.where, path) and not _any(self.keep_base, path)


def _any(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def settings_from(config: ConfigDict) -> Settings:
    """Checks a config without reading a parameter; one `ConfigError` has all faults.

    >>> settings_from(default_merge())
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: base is not set; a path is expected
    out is not set; a path is expected
    models is empty; at least one path, or {path, weight, name}, is expected
    """
    if faults := [*_key_faults(config)] or [*_faults(config)]:
        raise ConfigError("\n".join(faults))
    searched = config.search.evaluate
    return Settings(
        base=Path(config.base),
        tasks=tuple(_tasks(config.models)),
        recipe=Recipe.of(config),
        scale=None if searched else 1.0 if config.scale is None else config.scale,
        evaluate=searched,
        grid=tuple(config.search.grid),
        where=tuple(config.where),
        keep_base=tuple(config.keep_base),
        strict=config.strict,
        batch_stats=config.batch_stats,
        rules=rules_from([_plain(table) for table in config.names]),
        views=tuple(view_from(_plain(table)) for table in config.matrix_specs),
        out_names=config.out_names,
        dtype=FLOATS[config.dtype] if config.dtype else None,
        out=Path(config.out),
        shard_bytes=config.shard_bytes,
        seed=config.seed,
    )


def _key_faults(config: ConfigDict) -> Iterator[str]:
    known = dict(flatten(default_merge()))
    for key, _ in flatten(config):
        if key not in known and not key.startswith(tuple(f"{k}." for k in _OPEN)):
            yield unknown_key(key, known)
    present = dict(flatten(config))
    for key in known.keys() - present.keys() - set(_OPEN):
        yield f"key {key} is missing; start from default_merge()"


def _faults(config: ConfigDict) -> Iterator[str]:
    for key in ("base", "out"):
        if not config[key]:
            yield f"{key} is not set; a path is expected"
    if config.base and not Path(config.base).exists():
        yield f"base: {config.base} does not exist"
    yield from _model_faults(config.models)
    yield from Recipe.faults(config)
    yield from _number_faults(config)
    for key, known in (
        ("batch_stats", STATISTICS),
        ("out_names", OUT_NAMES),
        ("dtype", ("", *FLOATS)),
    ):
        if config[key] not in known:
            hint = did_you_mean(config[key], known)
            listed = ", ".join(name for name in known if name)
            yield f"{key} is {config[key]!r}; known: {listed}{hint}"
    for key in ("where", "keep_base"):
        yield from _pattern_faults(key, config[key])
    yield from view_faults([_plain(table) for table in config.matrix_specs])
    try:
        rules_from([_plain(table) for table in config.names])
    except ConfigError as error:
        yield str(error)
    if config.out and (fault := out_fault(Path(config.out))):
        yield f"out: {fault}"


def _model_faults(models: Any) -> Iterator[str]:
    if isinstance(models, str) or not models:
        yield "models is empty; at least one path, or {path, weight, name}, is expected"
        return
    for number, model in enumerate(models):
        where = f"models[{number}]"
        table = _plain(model)
        if isinstance(table, str):
            table = {"path": table}
        if not isinstance(table, Mapping) or not isinstance(table.get("path"), str):
            yield f"{where} is {model!r}; a path, or a dict with `path`, is expected"
            continue
        for key in table.keys() - set(_MODEL_KEYS):
            yield f"{where}.{key} is unknown{did_you_mean(key, _MODEL_KEYS)}"
        if not isinstance(table.get("weight", 1.0), int | float):
            yield f"{where}.weight is {table['weight']!r}; a number is expected"
        if not Path(table["path"]).exists():
            yield f"{where}: {table['path']} does not exist"


def _number_faults(config: ConfigDict) -> Iterator[str]:
    evaluate = config.search.evaluate
    if evaluate and config.scale is not None:
        yield "scale and search.evaluate are both set; set one of them"
    if evaluate:
        try:
            import_name("search.evaluate", evaluate)
        except ConfigError as error:
            yield str(error)
    grid = config.search.grid
    if not grid or not all(isinstance(x, int | float) for x in grid):
        yield f"search.grid is {grid!r}; numbers are expected"
    if config.shard_bytes < 1:
        yield f"shard_bytes is {config.shard_bytes}; it must be at least 1"


def _pattern_faults(key: str, patterns: Any) -> Iterator[str]:
    if isinstance(patterns, str):
        yield f"{key} is {patterns!r}; a tuple of regular expressions is expected"
        return
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{key}: {pattern!r} is no regular expression: {error}"


def _tasks(models: Sequence[Any]) -> Iterator[Task]:
    taken: set[str] = set()
    for number, model in enumerate(models):
        table = _plain(model)
        table = {"path": table} if isinstance(table, str) else table
        path = Path(table["path"])
        name = table.get("name") or path.name.removesuffix(".safetensors")
        if name in taken:
            name = f"{name} ({number})"
        taken.add(name)
        yield Task(path, name, float(table.get("weight", 1.0)))


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value
