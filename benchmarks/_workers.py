"""Processes that answer commands, one at a time, and sleep in between.

A comparison of two libraries wants both alive in one run, taking turns, each idle while
the other works. A message is one line of JSON, followed by as many raw bytes as its
`bytes` says: float32 arrays, laid out as its `arrays` says. Only the standard library
is needed here, so the other side may live in an environment of its own.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

CLOSE_SECS = 10.0


class Floats(NamedTuple):
    """A float32 array without NumPy: its shape, and its values in C order."""

    shape: tuple[int, ...]
    values: bytes


class WorkerError(RuntimeError):
    """A worker that failed; the message ends with what it said."""


def send(
    stream: BinaryIO, message: Mapping[str, Any], arrays: Mapping[str, Floats] = {}
) -> None:
    """Writes one message, arrays behind it."""
    for name, floats in arrays.items():
        wanted = 4 * math.prod(floats.shape)
        if len(floats.values) != wanted:
            raise ValueError(
                f"{name}: shape {floats.shape} needs {wanted} bytes, found "
                f"{len(floats.values)}"
            )
    payload = b"".join(floats.values for floats in arrays.values())
    shapes = {name: floats.shape for name, floats in arrays.items()}
    line = json.dumps({**message, "arrays": shapes, "bytes": len(payload)})
    stream.write(line.encode() + b"\n" + payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Floats]] | None:
    """Reads one message and its arrays, or None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    message = json.loads(line)
    payload = stream.read(message.pop("bytes"))
    arrays, place = {}, 0
    for name, shape in message.pop("arrays").items():
        size = 4 * math.prod(shape)
        arrays[name] = Floats(tuple(shape), payload[place : place + size])
        place += size
    return message, arrays


class Worker:
    """A process that runs `serve`. Closing it, or leaving `with`, ends the process."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = " ".join(command[:2])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )

    def ask(
        self, command: str, arrays: Mapping[str, Floats] = {}, **arguments: Any
    ) -> Any:
        """Calls one method of the other side and returns what it returned.

        Fails: `WorkerError` if the method raised or the process is gone.
        """
        result, _ = self._ask(command, arrays, arguments)
        return result

    def ask_arrays(self, command: str, **arguments: Any) -> dict[str, Floats]:
        """Like `ask`, for a method that returns arrays."""
        return self._ask(command, {}, arguments)[1]

    def _ask(
        self, command: str, arrays: Mapping[str, Floats], arguments: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Floats]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        message = {"command": command, "arguments": arguments}
        try:
            send(self._process.stdin, message, arrays)
            reply = receive(self._process.stdout)
        except BrokenPipeError:
            reply = None
        if reply is None:
            code = self._process.wait()
            raise WorkerError(f"{self.name} ended with code {code}; see above")
        answer, returned = reply
        if "error" in answer:
            raise WorkerError(f"{self.name} failed in {command}:\n{answer['error']}")
        return answer["result"], returned

    def close(self) -> None:
        """Ends the process; it stops by itself once its input is closed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(CLOSE_SECS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(side: Any) -> None:
    """Answers the commands on standard input by the methods of `side` until its end.

    A method gets the arguments of its command, and the arrays as `arrays` if there are
    any. It returns what JSON can say, or a dict of `Floats`. Standard output belongs to
    the messages from here on; what anyone prints goes to standard error.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while (request := receive(sys.stdin.buffer)) is not None:
        message, arrays = request
        extra = {"arrays": arrays} if arrays else {}
        try:
            method = getattr(side, message["command"])
            result = method(**message["arguments"], **extra)
        # Whatever a method raises, the asker is told and this process answers on; what
        # is no Exception (Ctrl-C, an exit) ends it.
        except Exception:
            send(replies, {"error": traceback.format_exc()})
            continue
        if _are_arrays(result):
            send(replies, {"result": None}, result)
        else:
            send(replies, {"result": result})


def _are_arrays(result: Any) -> bool:
    return (
        isinstance(result, dict)
        and bool(result)
        and all(isinstance(value, Floats) for value in result.values())
    )


def random_bytes(count: int, seed: int) -> bytes:
    """The same bytes from the same seed on both sides.

    >>> random_bytes(4, 0) == random_bytes(4, 0) != random_bytes(4, 1)
    True
    """
    return random.Random(seed).randbytes(count)


def use_cores(count: int) -> None:
    """Keeps this process on `count` cores; to be called before a library makes threads.

    Fails: `OSError` where the system cannot do this, or has fewer cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("this system cannot pin a process to cores; leave --threads out")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise OSError(f"{count} threads were asked for on {len(cores)} cores")
    os.sched_setaffinity(0, set(cores[-count:]))
