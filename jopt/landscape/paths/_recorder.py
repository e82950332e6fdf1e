"""Points collected along a path."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jopt.errors import ConfigError
from jopt.landscape.paths._off_path import off_path, overlaps
from jopt.landscape.paths._point import path_point
from jopt.landscape.paths._trace import PathTrace
from jopt.linalg import widened
from jopt.tree import PyTree


class Recorder:
    """Collects points; numbers stay on the device until the end."""

    def __init__(
        self,
        metrics: Callable[..., Any],
        reference: PyTree,
        every: int,
        lags: Sequence[int],
    ) -> None:
        if every < 1:
            raise ConfigError(f"every is {every}; it must be at least 1")
        if odd := [lag for lag in lags if lag < 1 or lag % every]:
            raise ConfigError(
                f"lags {odd} are no multiples of every={every}; points are so many "
                "steps apart"
            )
        self._reference = reference
        self._lags = {lag: lag // every for lag in sorted(lags)}
        self._past: deque[PyTree] = deque(maxlen=max(self._lags.values(), default=0))
        self._steps: list[int] = []
        self._rows: list[dict[str, Any]] = []

        self._measure = _measurer(metrics)

    def other(self, params: PyTree, grads: PyTree | None) -> dict[str, Any] | None:
        """The point of another gradient."""
        return None if grads is None else _other(params, grads, self._reference)

    def add(
        self,
        step: int,
        params: PyTree,
        grads: PyTree,
        after: PyTree,
        others: Mapping[str, dict[str, Any] | None],
    ) -> None:
        row = dict(self._measure(params, grads, self._reference, after))
        for name, point in others.items():
            row |= {f"{name}_{field}": x for field, x in (point or {}).items()}
        if self._lags:
            now = off_path(params, grads, self._reference)
            known = [n <= len(self._past) for n in self._lags.values()]
            # One program, also where some are not there yet.
            earlier = tuple(
                self._past[-n] if there else now
                for n, there in zip(self._lags.values(), known, strict=True)
            )
            for lag, there, cosine in zip(
                self._lags, known, overlaps(now, earlier), strict=True
            ):
                row[f"lag_{lag}"] = cosine if there else np.nan
            self._past.append(now)
        self._steps.append(step)
        self._rows.append(row)

    def trace(self, total: int, dimension: int, distance: float) -> PathTrace:
        rows = jax.device_get(self._rows)
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {
            name: np.array([float(row.get(name, np.nan)) for row in rows])
            for name in names
        }
        steps = np.array(self._steps, int)
        return PathTrace(steps, total, dimension, columns, distance)


@functools.lru_cache(maxsize=8)
def _measurer(metrics: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Kept, so that runs of several seeds compile it once."""

    @jax.jit
    def measured(params, grads, reference, after):
        updates = jax.tree.map(difference, after, params)
        return _plain(metrics(params, grads, reference, updates=updates))

    return measured


@jax.jit
def _other(params: PyTree, grads: PyTree, reference: PyTree) -> dict[str, Any]:
    return _plain(path_point(params, grads, reference))


def _plain(point: Any) -> dict[str, Any]:
    """The fields of a NamedTuple, or a dict as it is; what is NaN by design is kept."""
    return dict(point._asdict() if hasattr(point, "_asdict") else point)


def difference(after: jax.Array, before: jax.Array) -> jax.Array:
    """In at least float32: what was really added, also in bfloat16.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones(1, jnp.bfloat16)
    >>> difference(ones + 2**-10, ones).tolist()  # lost in the parameters
    [0.0]
    """
    return widened(after) - widened(before)
