"""The training loop. The order inside it is part of the contract."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax

from jopt.reporting import Console, MetricsLog
from jopt.training._batch_sizes import BatchSizes
from jopt.training._checkpoints import Checkpoints
from jopt.training._clock import Clock
from jopt.training._evaluation import totals
from jopt.training._fallback import last_good
from jopt.training._guard import SKIPPED, SKIPPED_IN_A_ROW, DivergedError, Guard
from jopt.training._plan import Plan
from jopt.training._queue import finished
from jopt.training._rates import FACTOR, LearningRates
from jopt.training._run_folder import RunFolder
from jopt.training._signals import StopSignals
from jopt.training._source import Source
from jopt.training._state import TrainState
from jopt.training._step import written
from jopt.training._watchdog import Watchdog
from jopt.transforms import SkipState, check_sharpness, unmonitored

if TYPE_CHECKING:
    from jopt.training._curvature import CurvatureMonitor

End = Literal["complete", "stopped", "tripped"]


class Loop:
    """Trains a plan from a state until its last step or a stop signal.

    One round: evaluate if due (and measure curvature), save if due, take the batch at
    the cursor, step, hand over the metrics of the *last* step, check for a stop signal.
    The cursor moves only with the step, so a checkpoint always names the next unseen
    example; metrics are read one step late, so the device never waits for the host.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        folder: RunFolder,
        checkpoints: Checkpoints,
        log: MetricsLog,
        console: Console,
        signals: StopSignals,
        process_start: float,
        watchdog: Watchdog,
        guard: Guard,
        *,
        strict_restore: bool = False,
    ) -> None:
        self._plan = plan
        self._config = plan.config
        self._source = source
        self._folder = folder
        self._checkpoints = checkpoints
        self._log = log
        self._console = console
        self._signals = signals
        self._process_start = process_start
        self._watchdog = watchdog
        self._guard = guard
        self._strict_restore = strict_restore
        self._guarded = isinstance(unmonitored(plan.shapes.opt_state), SkipState)
        self._sizes: BatchSizes
        self._compiled: set[Callable[..., Any]] = set()
        self._pending: _Pending | None = None
        self._loss = math.nan  # the last that was read
        self._rates = LearningRates(plan.config)
        self._clock = Clock()
        self.curvature: dict[str, float] = {}  # the last that was measured
        self._curvature: CurvatureMonitor | None = None
        if self._config.monitor.curvature.every_steps:
            # Other runs start without the landscape of a loss.
            from jopt.training._curvature import CurvatureMonitor

            self._curvature = CurvatureMonitor(plan, source)

    def run(self, state: TrainState) -> tuple[TrainState, bool]:
        """Returns the last state, and whether the run is complete."""
        while True:
            state, end = self._rounds(state)
            if end != "tripped":
                return state, end == "complete"
            state = self._roll_back(state)

    def _rounds(self, state: TrainState) -> tuple[TrainState, End]:
        config = self._config
        first = step = int(state.step)
        cursor = int(state.cursor)
        sizes = self._sizes = BatchSizes(config, step, state.oracle_state)
        self._log.write({"event": "start", "step": step, "tokens": self._tokens()})
        while not sizes.over:
            if _due(step, config.eval.every_steps) and step > first:
                self._evaluate(step, state)
            if _due(step, config.monitor.curvature.every_steps) and step > first:
                self._measure_curvature(step, state)
            if _due(step, config.checkpoint.every_steps) and step > first:
                self._save(step, state)
            if self._guard.tripped:
                return state, "tripped"
            rows = sizes.rows
            batch = self._plan.put(self._source.batch(cursor, rows))
            program = self._plan.step_of(sizes.count, step)
            with self._compiling(step, program):
                state, metrics = program(state, batch)
            step += 1
            cursor += rows
            sizes.took()
            finished(self._plan.mesh, state)
            self._hand_over(step, rows, metrics)
            self._watchdog.beat()
            if self._signals.due() and not sizes.over:
                self._save(step, state)
                return state, "stopped"
        self._flush()
        if self._guard.tripped:
            return state, "tripped"
        if step > first:
            self._measure_curvature(step, state)
        if not self._checkpoints.has(step):
            self._save(step, state)
        return state, "complete"

    def _roll_back(self, state: TrainState) -> TrainState:
        """The last good state, with the cursor past the data that led here."""
        self._guard.roll_back()
        self._pending = None
        return last_good(
            state,
            self._plan,
            self._checkpoints,
            self._log,
            self._console,
            strict=self._strict_restore,
        )

    @property
    def tokens_per_sec(self) -> float:
        """Training tokens per second, without compilation, evaluation and saves."""
        return self._clock.rate()

    @contextlib.contextmanager
    def _compiling(self, step: int, program: Callable[..., Any]) -> Iterator[None]:
        """Around a step; a program that is new is compiled first."""
        if program in self._compiled:
            yield
            return
        if self._compiled and self._config.train.adaptive_batch.enabled:
            self._console.say(f"step {step}: compiles for {self._sizes.rows} rows")
        self._compiled.add(program)
        with self._clock.pause():
            yield

    def _tokens(self) -> int:
        """In the steps so far."""
        return self._plan.items(self._sizes.consumed)

    def _hand_over(self, step: int, rows: int, metrics: Any) -> None:
        if not self._clock.started:
            jax.block_until_ready(metrics)
            startup = time.monotonic() - self._process_start
            self._console.say(f"first step after {startup:.1f} s")
            self._clock.start()
        else:
            self._clock.add(self._plan.items(rows))
        self._flush()
        done = self._sizes.consumed
        self._pending = _Pending(step, rows, done, self._sizes.over, metrics)

    def _flush(self) -> None:
        """Reads the metrics of the step before the one in flight."""
        if self._pending is None:
            return
        step, rows, done, last, on_device = self._pending
        self._pending = None
        if self._guarded:
            self._guard.see(float(on_device[SKIPPED_IN_A_ROW]))
        self._sizes.see(on_device)
        every = self._config.train.log_every_steps
        if not (
            last or _due(step, every) or _due(step, self._config.monitor.every_steps)
        ):
            return
        metrics = written(self._plan.read(on_device), self._plan.params)
        rate = self._clock.rate()
        self._log.write(
            {
                "step": step,
                "tokens": self._plan.items(done),
                **metrics,
                **self._sizes.record(rows, done),
                **self._learning_rates(step, metrics),
                "time/tokens_per_sec": rate,
            }
        )
        self._check_perturbation(step, metrics)
        # Where all replicas were pulled in this step, none has computed a loss.
        known = "train/loss" in metrics
        loss = self._loss = metrics["train/loss"] if known else self._loss
        if known and not math.isfinite(loss) and not self._guarded:
            raise DivergedError(
                f"the training loss is {loss} at step {step}; the last good state is "
                f"step {self._checkpoints.latest()} in {self._folder.checkpoints}"
            )
        remaining = self._plan.items(self._sizes.budget - done) / max(rate, 1.0)
        if step % (10 * every) == 0 or last:
            self._folder.set_status("running", step=step)
            self._console.progress(step, loss, rate, remaining)

    def _check_perturbation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warns and raises what a step of the SAM family could only count."""
        fallback = self._config.oracle.fallback
        try:
            check_sharpness(metrics, fallback=fallback, prefix="oracle/")
        except FloatingPointError as error:
            raise DivergedError(
                f"by step {step} {error} (oracle.fallback); the last good state is "
                f"step {self._checkpoints.latest()} in {self._folder.checkpoints}"
            ) from error

    def _learning_rates(
        self, step: int, metrics: Mapping[str, float]
    ) -> dict[str, float]:
        if FACTOR in metrics:
            return self._rates.times(metrics[FACTOR])
        # The schedule counts the updates that were made.
        return self._rates.at(max(step - 1 - int(metrics.get(SKIPPED, 0)), 0))

    def _save(self, step: int, state: TrainState) -> None:
        self._flush()
        if self._guard.tripped:
            return  # The state counts steps that are about to be undone.
        with self._clock.pause():
            self._checkpoints.save(step, state)
        self._watchdog.beat()

    def _evaluate(self, step: int, state: TrainState) -> None:
        self._flush()
        with self._clock.pause():
            batches = self._source.evaluation(whole=False)
            model = self._plan.model_of(state)
            added = totals(self._plan.sums, model, batches, self._plan.put)
        task = self._plan.task
        result = task.results(added)
        self._watchdog.beat()
        self._log.write({"step": step, "tokens": self._tokens(), **result})
        self._console.say(
            f"step {step}: {task.describe(result)} on {task.amount(result)}"
        )

    def _measure_curvature(self, step: int, state: TrainState) -> None:
        """Only reads the state; the last one is measured whenever this is on."""
        if self._curvature is None:
            return
        self._flush()
        with self._clock.pause():
            found = self._curvature.measure(self._plan.model_of(state))
        self._watchdog.beat()
        self._log.write({"step": step, "tokens": self._tokens(), **found})
        self.curvature = found
        self._console.say(f"step {step}: {self._curvature.describe(found)}")
        rate = self._clock.rate() / self._plan.items(self._sizes.rows)
        for remark in self._curvature.remarks(found, rate):
            self._console.say(remark)


class _Pending(NamedTuple):
    """A step whose metrics are still on the device.

    Attributes:
        step: its number, from 1.
        rows: of its batch.
        done: examples of all steps up to it.
        last: whether it is the last one.
        metrics: as the step gave them.
    """

    step: int
    rows: int
    done: int
    last: bool
    metrics: Any


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
