"""The points of a whole path: what is reported, null baselines, a schedule, files."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError, check_choice

# P recorded points.

TAIL = 0.03  # of a run, at its end, where the reference is too near
POINTS = 200  # of a schedule in a file, at most


@dataclasses.dataclass(frozen=True)
class PathTrace:
    """What two passes found.

    Attributes:
        steps: int (P,), steps that were taken before each point.
        total: T, steps of the whole run.
        dimension: numbers in the parameters.
        columns: name -> float64 (P,): the fields of the metrics, `NAME_FIELD` of other
            gradients, `lag_K` of off-path cosines; NaN where nothing was measured.
        replay_distance: ||w_T - w*|| of the second pass, 0 where it is bitwise the
            first; NaN where nothing was replayed.
    """

    steps: np.ndarray
    total: int
    dimension: int
    columns: Mapping[str, np.ndarray]
    replay_distance: float

    def __getitem__(self, name: str) -> np.ndarray:
        """A column; `valid` is bool."""
        check_choice("column of the path", name, self.columns)
        column = self.columns[name]
        return column > 0 if name == "valid" else column

    def tail(self, fraction: float = TAIL) -> np.ndarray:
        """bool (P,): the points in the last `fraction` of the run's steps.

        The reference is the last iterate, so RSI and EB grow without bound there.
        """
        return self.steps >= self.total - math.ceil(fraction * self.total)

    def reported(self, fraction: float = TAIL) -> np.ndarray:
        """bool (P,): the valid points that are not in the tail."""
        return self["valid"] & ~self.tail(fraction)

    def share_positive(self, name: str = "gamma", tail: float = TAIL) -> float:
        """How many of the reported points are above 0; NaN without any."""
        values = self[name][self.reported(tail)]
        values = values[~np.isnan(values)]
        return float(np.mean(values > 0)) if values.size else float("nan")

    def nulls(self) -> dict[str, np.ndarray]:
        """gamma of paths that know nothing of the reference, (P,) each.

        - `random_direction`: the standard deviation 1 / sqrt(d) of the cosine of a
          random direction; gamma sqrt(d) is gamma in units of it.
        - `random_walk`: 1 / sqrt(T - t), of a walk of independent steps of one length.
        - `self`: gamma - gamma_excl, which this very step put into w - w*.
        - `fresh`: gamma of a batch that the path does not use, where it was measured.
        """
        left = np.maximum(self.total - self.steps, 1)
        found = {
            "random_direction": np.full(len(self.steps), self.dimension**-0.5),
            "random_walk": 1 / np.sqrt(left),
        }
        if "gamma_excl" in self.columns:
            found["self"] = self["gamma"] - self["gamma_excl"]
        if "fresh_gamma" in self.columns:
            found["fresh"] = self["fresh_gamma"]
        return found

    def smoothed(
        self, smooth: float = 0.95, *, of: str = "local_lr", tail: float = TAIL
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and the EMA of a column at them, cut off at 0 from below.

        Points that are not reported are left out. The weight of a point falls by
        `smooth` with each step of the run, and the sum is divided by that of the
        weights, so the start is not pulled to 0.

        Fails: `ConfigError` where no point is left, or for a `smooth` outside [0, 1).
        """
        if not 0 <= smooth < 1:
            raise ConfigError(f"smooth is {smooth}; it lies in [0, 1)")
        keep = self.reported(tail) & np.isfinite(self[of])
        if not keep.any():
            raise ConfigError(
                f"the path has no reported point with a finite {of}: all "
                f"{len(self.steps)} are in the tail of {tail:g} or not valid"
            )
        steps, values = self.steps[keep], self[of][keep]
        total = weight = 0.0
        found = []
        for gap, value in zip(np.diff(steps, prepend=steps[0]), values, strict=True):
            total = smooth ** float(gap) * total + (1 - smooth) * value
            weight = smooth ** float(gap) * weight + (1 - smooth)
            found.append(max(total / weight, 0.0))
        return steps, np.array(found)

    def schedule(
        self, smooth: float = 0.95, *, of: str = "local_lr", tail: float = TAIL
    ) -> optax.Schedule:
        """The locally optimal learning rate of the path, as a schedule for SGD.

        `smoothed`, with straight lines between the points; the first and the last value
        go on before and after them, so the tail has the last value before it. May be
        traced.

        Args:
            smooth: decay of the average over one step; 0 for none.
            of: a column. `local_lr` is of the gradient; `update_lr` is a factor on the
                update that was made.
            tail: of the run, which is left out.

        Fails: as `smoothed`.

        >>> columns = {"local_lr": np.array([1.0, 3.0, -8.0]), "valid": np.ones(3)}
        >>> trace = PathTrace(np.array([0, 10, 20]), 100, 9, columns, 0.0)
        >>> schedule = trace.schedule(smooth=0.0)
        >>> [float(schedule(step)) for step in (0, 5, 10, 15, 99)]
        [1.0, 2.0, 3.0, 1.5, 0.0]
        """
        steps, values = self.smoothed(smooth, of=of, tail=tail)
        return lambda count: jnp.interp(
            jnp.asarray(count, jnp.float32),
            jnp.asarray(steps, jnp.float32),
            jnp.asarray(values, jnp.float32),
        )

    def save_schedule(
        self,
        path: Path,
        smooth: float = 0.95,
        *,
        of: str = "update_lr",
        tail: float = TAIL,
        factor: optax.Schedule = lambda step: jnp.ones_like(step, jnp.float32),
    ) -> None:
        """Writes a schedule for `train.schedule.path`: fraction of a run, value.

        Args:
            path: a CSV file.
            smooth, of, tail: as in `schedule`.
            factor: of the run that was measured, on its learning rates. Its product
                with `update_lr` is the factor that would have been best.
        """
        run_factor = np.broadcast_to(np.asarray(factor(self.steps)), self.steps.shape)
        own = {**self.columns, "_": self[of] * run_factor}
        trace = dataclasses.replace(self, columns=own)
        steps, values = trace.smoothed(smooth, of="_", tail=tail)
        some = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
        rows = [
            {"fraction": repr(float(step / self.total)), "value": repr(float(value))}
            for step, value in zip(steps[some], values[some], strict=True)
        ]
        _write_csv(path, rows)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each point: step, tail, then the columns."""
        tail = self.tail()
        return [
            {
                "step": int(step),
                "tail": int(tail[place]),
                **{name: float(x[place]) for name, x in self.columns.items()},
            }
            for place, step in enumerate(self.steps)
        ]

    def about(self) -> dict[str, Any]:
        """What the rows do not say."""
        distance = self.replay_distance  # JSON has no NaN
        return {
            "total": self.total,
            "dimension": self.dimension,
            "replay_distance": None if math.isnan(distance) else distance,
        }

    def save(self, path: Path) -> None:
        """Writes rows to `path`, a CSV file, and the rest to a `.json` beside it."""
        rows = [
            {k: repr(v) if isinstance(v, float) else v for k, v in row.items()}
            for row in self.rows()
        ]
        _write_csv(path, rows)
        path.with_suffix(".json").write_text(json.dumps(self.about(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> PathTrace:
        """Reads what `save`, or `python -m jopt probe RUN --paths`, has written.

        Fails: `ConfigError` where there is no readable trace.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            about = json.loads(path.with_suffix(".json").read_text())
            names = [name for name in rows[0] if name not in ("step", "tail")]
            distance = about["replay_distance"]
            return cls(
                steps=np.array([int(row["step"]) for row in rows]),
                total=int(about["total"]),
                dimension=int(about["dimension"]),
                columns={
                    name: np.array([float(row[name]) for row in rows]) for name in names
                },
                replay_distance=float("nan") if distance is None else float(distance),
            )
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"{path} is not a readable path trace: {error}") from None


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
