"""Compiled functions that all processes begin at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

from jopt.parallel._processes import barrier


def together(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted function whose processes wait for each other after compiling.

    Processes compile at different speeds, and a collective that one of them begins long
    before the others can time out (Gloo's waits 30 s). In a single process it is the
    function itself.

    >>> sine = jax.jit(jax.numpy.sin)
    >>> together(sine) is sine
    True
    """
    return function if jax.process_count() == 1 else Together(function)


def settle(array: jax.Array) -> None:
    """Waits for a result on each of this process's devices.

    Where another process is lost, one device may fail while the next waits for its part
    for ever: looking at them in turn finds the failure, which is raised.

    >>> settle(jax.numpy.zeros(3))
    """
    waiting = [shard.data for shard in array.addressable_shards]
    pause = 1e-5
    while waiting:
        late = []
        for data in waiting:
            if data.is_ready():
                data.block_until_ready()
            else:
                late.append(data)
        waiting = late
        if waiting:
            time.sleep(pause)
            pause = min(2 * pause, 1e-2)


class Together:
    """`jax.jit` with a barrier between compilation and the first call.

    Attributes:
        programs: those that were compiled so far.

    >>> sine = Together(jax.jit(jax.numpy.sin))
    >>> float(sine(jax.numpy.zeros(()))), len(sine.programs)
    (0.0, 1)
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._programs: dict[Any, jax.stages.Compiled] = {}

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        return list(self._programs.values())

    def __call__(self, *args: Any) -> Any:
        return self.compile(*args)(*args)

    def compile(self, *args: Any) -> jax.stages.Compiled:
        """The program for such arguments, of which shapes are enough."""
        leaves, structure = jax.tree.flatten(args)
        key = (structure, *((x.shape, x.dtype) for x in leaves))
        if key not in self._programs:
            self._programs[key] = self._function.lower(*args).compile()
            barrier("compiled")
        return self._programs[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)
