"""Several processes as one job: how they start, agree and notice a loss."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jopt.errors import ConfigError, LostProcessError

PyTree = Any
T = TypeVar("T")

# What says that a launcher has started several processes, and how many where it says.
_LAUNCHERS = {
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", None),
    "Cloud TPU": ("TPU_WORKER_ID", None),
}
# What a collective or the coordination service says when its other end has gone.
_LOSS = re.compile(
    r"gloo|connection (reset|closed|refused)|closed by peer|broken pipe|heartbeat|"
    r"coordination service|barrier.*(timed out|error)|remote process exited|"
    r"socket closed",
    re.IGNORECASE,
)


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

    Fails: `ConfigError` for arguments that do not fit; `LostProcessError` when the
    others do not come.

    >>> start_processes(environ={})
    False
    """
    stated = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    found = None
    if set(stated.values()) == {None}:
        found = launcher(environ)
        if found is None:
            return False
    else:
        _check(coordinator, num_processes, process_id)
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=timeout_secs
        )
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if found is not None:
            raise ConfigError(
                f"{found} started this process as one of several, but JAX could not "
                f"join them: {first}\nstate them: --coordinator=HOST:PORT "
                "--num_processes=N --process_id=I"
            ) from error
        raise LostProcessError(
            f"process {process_id} of {num_processes} could not join the others at "
            f"{coordinator} within {timeout_secs} s: {first}\nstart all of them with "
            "the same --coordinator, a free port of the machine that runs process 0"
        ) from error
    return True


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


def is_first() -> bool:
    """Whether this process writes what a run writes once; true for a single one.

    >>> is_first()
    True
    """
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns once all processes are here; `name` is the same in all of them.

    >>> barrier("compiled")
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def decided_by_first(decide: Callable[[], T]) -> T:
    """What `decide` returns in process 0, in all processes.

    Args:
        decide: called in process 0 only; returns what JSON can hold.

    Fails: as `decide`, in all processes: `ConfigError` stays one, anything else is a
    `LostProcessError` in the others.

    >>> decided_by_first(lambda: [1, 2])
    [1, 2]
    """
    if jax.process_count() == 1:
        return decide()
    found, failure = None, None
    if is_first():
        try:
            found = decide()
        except Exception as error:  # it is raised again once the others know
            failure = error
    told = {
        "found": found,
        "error": None if failure is None else str(failure),
        "config": isinstance(failure, ConfigError),
    }
    told = json.loads(_broadcast(json.dumps(told).encode() if is_first() else b""))
    if failure is not None:
        raise failure
    if told["error"] is not None:
        kind = ConfigError if told["config"] else LostProcessError
        raise kind(f"process 0: {told['error']}")
    return told["found"]


def _broadcast(text: bytes) -> bytes:
    """The bytes that process 0 has."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes()


def in_any_process(flag: bool) -> bool:
    """Whether the flag is set in one of the processes or more.

    >>> in_any_process(True)
    True
    """
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def whole(tree: PyTree) -> PyTree:
    """The leaves of a tree on this host; all processes call it together.

    In a single process they stay as they are. Otherwise each host holds all of it, so
    it is for the end of a run, not for its steps.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(
        lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)),
        tree,
    )


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process of the job has gone.

    >>> is_loss(ValueError("Gloo all-reduce failed: Connection closed by peer"))
    True
    >>> is_loss(ValueError("shapes do not match"))
    False
    """
    if isinstance(error, LostProcessError):
        return True
    runtime = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return runtime and _LOSS.search(str(error)) is not None
