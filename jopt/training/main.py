"""`python train.py`: from a command line to a trained model."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from jopt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    WorkdirInUseError,
    print_error,
)
from jopt.training._platform import (
    keep_freed_memory,
    set_compilation_cache,
    set_xla_flags,
)
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_USAGE,
    StopSignals,
)

USAGE = """\
usage: python train.py --config=FILE[:SIZE] [--config.KEY=VALUE ...]
                       [--workdir=FOLDER] [--dry_run] [--strict_restore]
                       [--sweep=FILE]

  --config    a Python file with get_config(size), for example configs/muon_lm.py:micro
  --config.*  change one value, for example
              --config.optim.rules.matrix.learning_rate=0.03
  --workdir   folder of the run; runs/<config>-<hash of the config> by default. The
              same command again resumes the run that is there.
  --dry_run   show the plan (parameters, optimizers, sizes), train nothing
  --strict_restore
              stop when the newest checkpoint is damaged, instead of going on from
              the newest one that is whole
  --sweep     JSON file on the sweep that the run is a job of, kept in its config.json;
              `python -m jopt sweep` passes it

exit codes: 0 done, 1 failure, 2 bad config or usage, 75 stopped and resumable,
            76 no step within train.step_timeout_secs
"""


def main(
    argv: Sequence[str] | None = None, *, process_start: float | None = None
) -> int:
    """Runs one training command and returns its exit code.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` by default.
        process_start: `time.monotonic()` when the process began.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return EXIT_DONE
    with StopSignals() as signals:
        try:
            return _train(argv, signals, process_start or time.monotonic())
        except ConfigError as error:
            print_error(error)
            return EXIT_USAGE
        except (DataError, CheckpointError, WorkdirInUseError, OSError) as error:
            print_error(error)
            return EXIT_FAILURE


def _train(argv: Sequence[str], signals: StopSignals, process_start: float) -> int:
    set_xla_flags()
    # Imports of a second or more come after the flags, and not for --help.
    import jax

    from jopt.reporting import read_json
    from jopt.training._explain import explain
    from jopt.training._flags import parse
    from jopt.training._plan import make_plan, resolve
    from jopt.training._run import run
    from jopt.training._run_folder import RunFolder, default_folder

    line = parse(argv)
    if line.rest:
        raise ConfigError(f"unexpected argument {line.rest[0]!r}; see --help")
    config = resolve(line.config)
    set_compilation_cache()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    plan = make_plan(config)
    if line.dry_run:
        print(explain(plan))
        return EXIT_DONE
    folder = RunFolder(
        line.workdir or default_folder(line.config_name, config),
        line.config_name,
        config,
        overrides=line.overrides,
        command=["python", "train.py", *argv],
        sweep=None if line.sweep is None else read_json(line.sweep),
    )
    with contextlib.closing(folder):
        status = folder.status()
        if status["state"] == "done":
            print(f"{folder.path} is finished: {status['headline']}")
            return EXIT_DONE
        return run(
            plan,
            folder,
            signals,
            process_start=process_start,
            strict_restore=line.strict_restore,
        )
