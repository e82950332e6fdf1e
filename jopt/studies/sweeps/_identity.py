"""The id of a job: what its config says once it is resolved."""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from jopt.errors import ConfigError

# Where data is kept changes nothing about a run.
_PLACES = ("data.cache_dir",)


def job_id(resolved: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a resolved config as canonical JSON.

    Keys are sorted, separators are `,` and `:`, floats are written by `repr`.

    >>> job_id({"seed": 0, "data.cache_dir": "/here"}) == job_id({"seed": 0})
    True
    """
    kept = {key: value for key, value in resolved.items() if key not in _PLACES}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identify(
    lines: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[str, int]]:
    """Id and tokens of training, or examples, of the run that each line would start.

    A config is resolved with the devices at hand. Where asking for them could take an
    accelerator away from the jobs, a process of its own asks, and ends.

    Fails: `ConfigError` where the run would, with its name.
    """
    if not has_accelerator():
        return _identify(lines, names)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_identify, lines, names).result()


def _identify(
    lines: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[str, int]]:
    from jopt.training._platform import set_xla_flags

    # Which compute type `auto` means depends on the flags.
    set_xla_flags()
    from jopt.training._flags import parse
    from jopt.training._plan import resolve
    from jopt.training._run_folder import plain
    from jopt.training._tasks import TASKS

    found = []
    for line, name in zip(lines, names, strict=True):
        try:
            config = resolve(parse(line).config)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        per_row = TASKS[config.objective.name].items_per_row(config.data.seq_len)
        tokens = config.train.steps * config.train.batch_size * per_row
        found.append((job_id(plain(config)), tokens))
    return found


def has_accelerator() -> bool:
    """Whether JAX may find more than a CPU; asks no device."""
    plugins = metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
