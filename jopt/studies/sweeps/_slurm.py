"""`sweep --slurm=N`: the same command in N tasks of a Slurm array, through submitit."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError
from jopt.training._signals import EXIT_DONE, EXIT_PREEMPTED

INSTALL = "pip install 'jopt[slurm]'"
POLL_SECS = 0.2
_PREFIX = "--slurm_"


@dataclasses.dataclass(frozen=True)
class Slurm:
    """What `--slurm=N --slurm_KEY=VALUE ...` asks for.

    Attributes:
        tasks: how many, each a sweep process on the shared folder.
        parameters: what submitit calls `slurm_KEY`.
        cluster: `slurm`; submitit's `local` runs the tasks on this machine.
    """

    tasks: int
    parameters: Mapping[str, Any]
    cluster: str


def split_slurm(argv: Sequence[str]) -> tuple[Slurm | None, list[str]]:
    """What is for Slurm, and the flags that are for each task.

    Fails: `ConfigError` when options of Slurm come without `--slurm=N`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jopt sweep", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--slurm", type=int)
    known, rest = parser.parse_known_args(argv)
    words = [word for word in rest if word.startswith(_PREFIX)]
    parameters = dict(_parameter(word) for word in words)
    if known.slurm is None and not words:
        return None, rest
    if known.slurm is None or known.slurm < 1:
        raise ConfigError("--slurm=N says how many tasks there are, at least 1")
    cluster = str(parameters.pop("cluster", "slurm"))
    own = [word for word in rest if not word.startswith(_PREFIX)]
    return Slurm(known.slurm, parameters, cluster), own


def _parameter(word: str) -> tuple[str, Any]:
    name, equals, value = word.removeprefix(_PREFIX).partition("=")
    if not equals:
        raise ConfigError(f"{word} needs a value: {word}=VALUE")
    return name, int(value) if value.isdecimal() else value


def submit(wanted: Slurm, folder: Path, argv: Sequence[str]) -> list[str]:
    """Hands the tasks to Slurm and returns their ids.

    Args:
        wanted: how many tasks, and what each gets.
        folder: for submitit's files: the scripts, and what the tasks print.
        argv: of the sweep process that each task runs in the present folder.

    Fails: `ConfigError` where submitit or Slurm is missing, or refuses an option.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(f"--slurm needs a package that is missing: {INSTALL}")
    import submitit
    from submitit.core.utils import FailedJobError

    task = SweepTask(["sweep", *argv], Path.cwd())
    parameters = {f"slurm_{key}": value for key, value in wanted.parameters.items()}
    try:
        executor = submitit.AutoExecutor(folder, cluster=wanted.cluster)
        executor.update_parameters(name="jopt-sweep", **parameters)
        with executor.batch():
            jobs = [executor.submit(task) for _ in range(wanted.tasks)]
    except (RuntimeError, ValueError, NameError, FailedJobError) as error:
        raise ConfigError(f"--slurm: {str(error).splitlines()[0]}") from None
    return [job.job_id for job in jobs]


class SweepTask:
    """A sweep process of its own, which submitit runs and may have to interrupt.

    Args:
        argv: what follows `python -m jopt`.
        cwd: where it runs.
    """

    def __init__(self, argv: Sequence[str], cwd: Path) -> None:
        self._argv = list(argv)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Returns the exit code of a sweep that is done, or was told to stop."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jopt", *self._argv], cwd=self._cwd
        )
        # `wait` holds a lock, and a signal may come meanwhile.
        while (code := self._process.poll()) is None:
            time.sleep(POLL_SECS)
        if code not in (EXIT_DONE, EXIT_PREEMPTED):
            raise RuntimeError(f"the sweep ended with exit code {code}; see above")
        return code

    def checkpoint(self) -> Any:
        """Called before the time limit: the runs save, and the task goes on later."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            # Waits and leaves the exit code to the loop that was interrupted.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SweepTask(self._argv, self._cwd))
