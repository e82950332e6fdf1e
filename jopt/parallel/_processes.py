"""Several processes as one job: how they agree and notice a loss."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jopt.errors import ConfigError, LostProcessError

PyTree = Any
T = TypeVar("T")

# What a collective or the coordination service says when its other end has gone.
_LOSS = re.compile(
    r"gloo|connection (reset|closed|refused)|closed by peer|broken pipe|heartbeat|"
    r"coordination service|barrier.*(timed out|error)|remote process exited|"
    r"socket closed",
    re.IGNORECASE,
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
