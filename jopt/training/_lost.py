"""How a process of several ends when another has gone, or it fails itself."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import jax

from jopt.parallel import is_loss
from jopt.training._run_folder import RunFolder
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_PREEMPTED,
    EXIT_STALLED,
)


@contextlib.contextmanager
def ends_when_lost(folder: RunFolder | None = None) -> Iterator[None]:
    """Ends the process with a message and code 76 when another one has gone.

    It leaves at once: a regular exit would wait for the others, and the coordination
    service of JAX aborts what is left after its own time limit.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1 or not is_loss(error):
            raise
        me, several = jax.process_index(), jax.process_count()
        cause = str(error).splitlines()[0][:200]
        reason = f"process {me} of {several} lost another one: {cause}"
        print(
            f"LostProcessError: {reason}\n"
            "  the same command in all processes goes on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        if folder is not None:
            with contextlib.suppress(OSError):
                step = folder.status().get("step")
                folder.set_status("failed", step=step, reason=reason)
        leave(EXIT_STALLED)


def as_one_of_several(command: Callable[[], int]) -> int:
    """The exit code of a command that all processes of a job run.

    A process that ends before the others does not wait for them at the door, as JAX
    would: they may be in the middle of a step, and notice that it has gone.
    """
    try:
        with ends_when_lost():
            code = command()
    except Exception:
        traceback.print_exc()
        code = EXIT_FAILURE
    if code not in (EXIT_DONE, EXIT_PREEMPTED):
        leave(code)
    return code


def leave(code: int) -> None:
    """Ends this process without waiting for the others, which will notice."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
