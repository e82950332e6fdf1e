"""A run folder opened again, for reading: what it trained, data and checkpoints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jopt.training._platform import set_compilation_cache, set_xla_flags

if TYPE_CHECKING:
    from jopt.training._checkpoints import Checkpoints
    from jopt.training._plan import Plan
    from jopt.training._source import Source


class Reopened(NamedTuple):
    """What a run's config and folder hold.

    Attributes:
        plan: model, objective, optimizer and mesh, as the config says.
        source: its data.
        checkpoints: opened for reading.
    """

    plan: Plan
    source: Source
    checkpoints: Checkpoints


@contextlib.contextmanager
def reopened(folder: Path) -> Iterator[Reopened]:
    """Builds again what a run trained; changes nothing in its folder.

    Config keys that the run's version did not have get their defaults, and that is
    said on standard error.

    Fails: `ConfigError` where there is no run, or one that this machine cannot build.
    """
    set_xla_flags()
    # Imports of a second or more come after the flags, and not for --help.
    from jopt.training._checkpoints import Checkpoints
    from jopt.training._config import with_later_keys
    from jopt.training._plan import make_plan, resolve
    from jopt.training._run_folder import read_config

    config, added = with_later_keys(read_config(folder))
    config = resolve(config)
    if added:
        print(
            f"{folder} is of an older version; with its default: {', '.join(added)}",
            file=sys.stderr,
        )
    set_compilation_cache()
    plan = make_plan(config)
    source = plan.task.load(config)
    checkpoints = Checkpoints(folder / "checkpoints", keep=1, read_only=True)
    try:
        yield Reopened(plan, source, checkpoints)
    finally:
        checkpoints.close()
