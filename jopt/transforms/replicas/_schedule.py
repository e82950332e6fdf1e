"""When replicas meet: counted in optimizer steps, after the warm-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError

Period: TypeAlias = int | Callable[[int], int]


class Rounds(NamedTuple):
    """Period, warm-up, and what fragments make of them.

    Attributes:
        period: H steps; or a function of the count at which a round begins, which only
            the host can ask.
        warmup: steps before the first round.
        fragments: P.
        delay: tau, steps from sending to receiving.
    """

    period: Period
    warmup: int
    fragments: int
    delay: int

    @property
    def stride(self) -> int:
        """Steps from one fragment to the next: max(1, floor(H / P)).

        >>> Rounds(100, 0, 8, 0).stride
        12
        """
        if callable(self.period):
            raise ConfigError(
                "the period is a function of the count, which only the host can ask: "
                "call local_step, and sync after it where due(count) says so, instead "
                "of step"
            )
        return max(1, self.period // self.fragments)

    @property
    def effective_period(self) -> int:
        """Steps from one sending of a fragment to its next: P strides.

        >>> Rounds(100, 0, 8, 0).effective_period
        96
        """
        return self.stride * self.fragments

    def check(self, strict: bool) -> None:
        """Fails with `ConfigError` for numbers that cannot be."""
        if self.warmup < 0:
            raise ConfigError(f"warmup_steps is {self.warmup}; expected 0 or more")
        if callable(self.period):
            if self.fragments > 1 or self.delay:
                raise ConfigError(
                    "a period that is a function goes with neither fragments nor "
                    "delay; pass a number of steps"
                )
            return
        if self.period < 1:
            raise ConfigError(f"period is {self.period}; expected 1 step or more")
        if self.fragments > self.period:
            raise ConfigError(
                f"{self.fragments} fragments do not fit into a period of {self.period} "
                "steps, one at a step; lengthen the period or take fewer fragments"
            )
        if not 0 <= self.delay < self.stride:
            raise ConfigError(
                f"delay is {self.delay}; expected 0 or more and less than the "
                f"{self.stride} steps from one sending to the next"
            )
        if strict and self.period % self.fragments:
            raise ConfigError(
                f"{self.fragments} fragments do not divide a period of {self.period}: "
                f"each would be sent every {self.effective_period} steps. strict=False "
                "accepts that"
            )

    def due(self, count: int) -> bool:
        """Whether something is sent after `count` steps; asked on the host.

        >>> [t for t in range(1, 12) if Rounds(3, 2, 1, 0).due(t)]
        [5, 8, 11]
        """
        if callable(self.period):
            return count in self._boundaries(count)
        return count > self.warmup and (count - self.warmup) % self.stride == 0

    def _boundaries(self, last: int) -> list[int]:
        assert callable(self.period)
        found, at = [], self.warmup
        while at < last:
            length = int(self.period(at))
            if length < 1:
                raise ConfigError(f"period({at}) is {length}; expected 1 step or more")
            at += length
            found.append(at)
        return found

    def fragment(self, count: jax.typing.ArrayLike) -> jax.Array:
        """The fragment that is sent after `count` steps, if one is; may be traced.

        >>> [int(Rounds(6, 0, 3, 0).fragment(t)) for t in (2, 4, 6, 8)]
        [1, 2, 0, 1]
        """
        if callable(self.period):
            return jnp.zeros((), jnp.int32)
        since = jnp.asarray(count, jnp.int32) - self.warmup
        return (since // self.stride) % self.fragments

    def turn(self, count: int) -> int:
        """`fragment` on the host, which asks no device.

        >>> [Rounds(6, 0, 3, 0).turn(t) for t in (2, 4, 6, 8)]
        [1, 2, 0, 1]
        """
        if callable(self.period):
            return 0
        return (count - self.warmup) // self.stride % self.fragments

    def chosen(self, count: jax.Array, delay: int = 0) -> jax.Array:
        """0, or 1 + the fragment that is sent (received) after `count` steps.

        >>> [int(Rounds(4, 0, 2, 1).chosen(jnp.array(t), 1)) for t in range(6)]
        [0, 0, 0, 2, 0, 1]
        """
        since = count - self.warmup - delay
        now = (since > 0) & (since % self.stride == 0)
        return jnp.where(now, 1 + self.fragment(count - delay), 0)
