"""`python train.py`: from a command line to a trained model."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jopt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LostProcessError,
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
    EXIT_STALLED,
    EXIT_USAGE,
    StopSignals,
)

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jopt.training._flags import CommandLine
    from jopt.training._run_folder import RunFolder

USAGE = """\
usage: python train.py --config=FILE[:SIZE] [--config.KEY=VALUE ...]
                       [--workdir=FOLDER] [--dry_run] [--strict_restore]
                       [--sweep=FILE]
                       [--coordinator=HOST:PORT --num_processes=N --process_id=I]

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

  --coordinator, --num_processes, --process_id
              one process of several: where process 0 is reached, how many there are,
              and which this is, from 0. Slurm, Open MPI, Kubernetes and Cloud TPU say
              so themselves

exit codes: 0 done, 1 failure, 2 bad config or usage, 75 stopped and resumable,
            76 no step within train.step_timeout_secs, or another process has gone
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
        start = time.monotonic() if process_start is None else process_start
        return _coded(lambda: _train(argv, signals, start))


def _coded(command: Callable[[], int]) -> int:
    """The exit code of a command, whose errors are said in words."""
    try:
        return command()
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except LostProcessError as error:
        print_error(error)
        return EXIT_STALLED
    except (DataError, CheckpointError, WorkdirInUseError, OSError) as error:
        print_error(error)
        return EXIT_FAILURE


def _train(argv: Sequence[str], signals: StopSignals, process_start: float) -> int:
    set_xla_flags()
    # Imports of a second or more come after the flags, and not for --help.
    from jopt.parallel import start_processes
    from jopt.training._flags import parse

    line = parse(argv)
    if line.rest:
        raise ConfigError(f"unexpected argument {line.rest[0]!r}; see --help")

    def command() -> int:
        return _in_this_process(line, argv, signals, process_start)

    if not start_processes(line.coordinator, line.num_processes, line.process_id):
        return command()
    from jopt.training._lost import as_one_of_several

    signals.share()
    return as_one_of_several(lambda: _coded(command))


def _in_this_process(
    line: CommandLine, argv: Sequence[str], signals: StopSignals, process_start: float
) -> int:
    import jax

    from jopt.parallel import decided_by_first
    from jopt.training._explain import explain
    from jopt.training._plan import make_plan, resolve
    from jopt.training._run import run

    config = resolve(line.config)
    set_compilation_cache()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    plan = make_plan(config)
    if line.dry_run:
        print(explain(plan))
        return EXIT_DONE
    folder = _open_folder(line, config, argv)
    with contextlib.closing(folder):
        status = decided_by_first(folder.status)
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


def _open_folder(
    line: CommandLine, config: ConfigDict, argv: Sequence[str]
) -> RunFolder:
    """The run's folder, held by the first process, after all agree on the config."""
    from jopt.parallel import decided_by_first, in_any_process, is_first
    from jopt.reporting import read_json
    from jopt.training._run_folder import RunFolder, default_folder, plain

    def opened() -> RunFolder:
        return RunFolder(
            line.workdir or default_folder(line.config_name, config),
            line.config_name,
            config,
            overrides=line.overrides,
            command=["python", "train.py", *argv],
            sweep=None if line.sweep is None else read_json(line.sweep),
            follows=not is_first(),
        )

    agreed = decided_by_first(lambda: plain(config))
    mine = plain(config)
    keys = sorted(key for key in mine if mine[key] != agreed.get(key))
    if in_any_process(bool(keys)):
        raise ConfigError(
            "the processes of this job have different configs"
            + "".join(
                f"\n  {key}: {mine[key]!r} here, {agreed.get(key)!r} in process 0"
                for key in keys
            )
        )
    held: list[RunFolder] = []

    def hold() -> None:
        held.append(opened())

    decided_by_first(hold)
    return held[0] if held else opened()
