"""How the processes of a job start, and what is said when JAX aborts one."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from jopt.errors import ConfigError, LostProcessError

_ABORTED = 76  # as a stalled run: to be tried again
_AGAIN_STATED = (
    "start all of them with the same --coordinator, a free port of the machine that "
    "runs process 0"
)
_AGAIN_LAUNCHED = (
    "their logs say whether they have come; --coordinator=HOST:PORT --num_processes=N "
    "--process_id=I state another place to meet"
)
# What says that a launcher has started several processes, and how many where it says.
_LAUNCHERS = {
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", None),
    "Cloud TPU": ("TPU_WORKER_ID", None),
}


def launcher(environ: Mapping[str, str]) -> str | None:
    """Which launcher has started this process as one of several; None for a plain one.

    >>> launcher({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    'Slurm'
    >>> launcher({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"})
    """
    for name, (index, count) in _LAUNCHERS.items():
        if index in environ and (count is None or int(environ.get(count, "1")) > 1):
            return name
    devices = Path("/dev")
    chips = [*devices.glob("accel*"), *devices.glob("vfio/[0-9]*")]
    elsewhere = environ.get("JAX_PLATFORMS", "tpu") != "tpu"
    if chips and not elsewhere and importlib.util.find_spec("libtpu") is not None:
        return "Cloud TPU"
    return None


def start_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    timeout_secs: int = 300,
) -> bool:
    """Joins the processes of a job; must come before any device is asked for.

    Without arguments JAX finds out by itself under Slurm, Open MPI, Kubernetes (an
    indexed job) and on Cloud TPU; a process that none of them started stays alone.

    Args:
        coordinator: HOST:PORT at which process 0 is reached by all.
        num_processes: of the job.
        process_id: of this one, from 0.
        environ: where launchers leave their variables.
        timeout_secs: to wait for the others.

    Returns:
        Whether there are several processes now, or one that was asked for by arguments.

    Fails: `ConfigError` for arguments that do not fit, or a launcher whose variables
    do not tell JAX where the others are; `LostProcessError` when they do not come. JAX
    itself aborts the process for most of these losses: see `explain_aborts`.

    >>> start_processes(environ={})
    False
    """
    stated = (coordinator, num_processes, process_id) != (None, None, None)
    if stated:
        _check(coordinator, num_processes, process_id)
        me = f"process {process_id} of {num_processes}"
        alone = f"{me} could not join the others at {coordinator}"
        again = _AGAIN_STATED
    else:
        found = launcher(environ)
        if found is None:
            return False
        alone = f"{_launched(found, environ)} could not join the others"
        again = _AGAIN_LAUNCHED
    explain_aborts(f"{alone} within {timeout_secs} s, or one of them has gone; {again}")
    begin = time.monotonic()
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=timeout_secs
        )
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        # The coordination service speaks, or a host was looked for until the time was
        # up; what else fails is that JAX cannot read what the launcher has left.
        met = isinstance(error, jax.errors.JaxRuntimeError)
        if stated or met or time.monotonic() - begin >= timeout_secs:
            raise LostProcessError(f"{alone}: {first}\n{again}") from error
        raise ConfigError(
            f"{found} started this process as one of several, but JAX could not "
            f"join them: {first}\nstate them: --coordinator=HOST:PORT "
            "--num_processes=N --process_id=I"
        ) from error
    explain_aborts(
        "JAX has aborted this process, as it does when another one of the job has "
        "gone; the lines above say more\n  the same command in all processes goes on "
        "from the newest checkpoint"
    )
    return True


def _launched(found: str, environ: Mapping[str, str]) -> str:
    """This process, as the launcher's own variables name it.

    >>> _launched("Slurm", {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    'the process that Slurm started (SLURM_PROCID=3, SLURM_NTASKS=8)'
    """
    names = [name for name in _LAUNCHERS[found] if name is not None]
    said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    return f"the process that {found} started" + (f" ({said})" if said else "")


def _check(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if coordinator is None or num_processes is None or process_id is None:
        missing = [
            f"--{name}"
            for name, value in (
                ("coordinator=HOST:PORT", coordinator),
                ("num_processes=N", num_processes),
                ("process_id=I", process_id),
            )
            if value is None
        ]
        raise ConfigError(
            f"{', '.join(missing)} missing: --coordinator, --num_processes and "
            "--process_id go together (none of them under Slurm, Open MPI, Kubernetes "
            "or on Cloud TPU)"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"--coordinator is {coordinator!r}; HOST:PORT is expected, for example "
            "10.0.0.1:12355"
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id} with --num_processes={num_processes}; ids are "
            "0 to num_processes - 1"
        )


_text = ""


def explain_aborts(text: str) -> None:
    """From now on an aborted process says `text` and has exit code 76, not a bare 134.

    JAX's coordination service aborts a process when another has gone (at once if it was
    the first, after the heartbeat's time limit for others) or has not come, from a
    thread of its own. No handler of Python's is called then, but one of C's is.
    """
    global _text
    _text = text
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, type(_on_abort)]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    os.write(2, f"\nLostProcessError: {_text}\n".encode())
    os._exit(_ABORTED)
