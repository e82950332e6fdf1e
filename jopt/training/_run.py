"""One run from its folder's present state to its end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax

from jopt import models
from jopt.errors import CheckpointError, ConfigError, ReportError, print_error
from jopt.parallel import is_first, whole
from jopt.reporting import (
    Console,
    MetricsLog,
    csv_text,
    open_mirrors,
    read_communication,
    write_report,
    write_text,
)
from jopt.training._checkpoints import Checkpoints
from jopt.training._communication import with_earlier
from jopt.training._evaluation import corrupted, shifted, totals
from jopt.training._fallback import report_damage
from jopt.training._guard import DivergedError, Guard
from jopt.training._kept_rows import source_of
from jopt.training._loop import Loop
from jopt.training._lost import ends_when_lost
from jopt.training._memory import peak_memory
from jopt.training._plan import Plan
from jopt.training._run_folder import RunFolder
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_PREEMPTED,
    EXIT_STALLED,
    StopSignals,
)
from jopt.training._source import Source
from jopt.training._state import TrainState
from jopt.training._watchdog import Watchdog
from jopt.tree import digest


def run(
    plan: Plan,
    folder: RunFolder,
    signals: StopSignals,
    *,
    process_start: float,
    strict_restore: bool = False,
) -> int:
    """Starts or resumes the run in `folder` and returns the process's exit code."""
    config = plan.config
    source = source_of(plan)
    checkpoints = Checkpoints(
        folder.checkpoints,
        keep=config.checkpoint.keep,
        keep_every_steps=config.checkpoint.keep_every_steps,
    )
    restored = checkpoints.restore_newest(plan.shapes, strict=strict_restore)
    state = plan.init() if restored is None else restored.state
    first = int(state.step)
    # Of several processes the first alone writes what stands once in a run's folder.
    alone = is_first()
    console = Console(config.train.steps, first=first, silent=not alone)
    mirrors = open_mirrors(
        folder.path,
        tensorboard=config.report.tensorboard and alone,
        tracker=config.report.tracker if alone else None,
    )
    log = MetricsLog(folder.metrics if alone else Path(os.devnull), mirrors)
    folder.set_status("running", step=first)
    console.say(_opening(plan, folder, first))
    report_damage(restored, plan, log, console)
    watchdog = Watchdog(
        config.train.step_timeout_secs,
        on_stall=lambda: _leave_stalled(config.train.step_timeout_secs, folder, log),
    )
    guard = Guard(**config.train.guard)
    loop = Loop(
        plan,
        source,
        folder,
        checkpoints,
        log,
        console,
        signals,
        process_start,
        watchdog,
        guard,
        strict_restore=strict_restore,
    )
    try:
        with ends_when_lost(folder), watchdog:
            state, complete = loop.run(state)
        if alone:
            _write_communication(plan, folder)
        if not complete:
            saved = checkpoints.latest()
            folder.set_status("preempted", step=saved)
            console.say(
                f"stopped by {signals.received} after step {int(state.step)}; saved is "
                f"step {saved}, and the same command goes on from there"
            )
            return EXIT_PREEMPTED
        with ends_when_lost(folder):
            model = plan.model_of(state)
            result = _evaluate(plan, source, model, log)
            params, model_state = whole((model.params, model.model_state))
        if not alone:
            return EXIT_DONE
        sample = _sample(plan, params, model_state)
        seconds = time.monotonic() - process_start
        headline = plan.task.describe(result)
        folder.set_status(
            "done",
            step=int(state.step),
            headline=headline,
            result={
                **result,
                **loop.curvature,
                "tokens_per_sec": loop.tokens_per_sec,
                "wall_secs": seconds,
                "rollbacks": guard.rollbacks,
                **peak_memory(),
                "params_sha256": digest(params),
            },
            sample=sample,
        )
        if sample:
            console.say(f"\na sampled passage:\n{sample}\n")
        console.say(
            f"done: {headline} on {plan.task.amount(result)}, "
            f"{loop.tokens_per_sec:,.0f} tokens/s, {seconds:.0f} s from process start"
        )
        if config.report.html:
            _report(folder, console)
        return EXIT_DONE
    except DivergedError as error:
        folder.set_status("diverged", reason=str(error))
        print_error(error)
        return EXIT_FAILURE
    except (CheckpointError, OSError) as error:
        saved = checkpoints.latest()
        # On a full disk even this may fail; the error itself still reaches the user.
        with contextlib.suppress(OSError):
            folder.set_status("failed", step=saved, reason=str(error))
        if isinstance(error, CheckpointError):
            raise
        raise OSError(
            f"{error} (run folder {folder.path})\nthe newest good step is {saved}; "
            "make room or mend what is said above, and run the same command again"
        ) from error
    finally:
        console.close()
        log.close()
        checkpoints.close()


def _leave_stalled(secs: float, folder: RunFolder, log: MetricsLog) -> None:
    """Ends the process from the watching thread: stacks, status, exit code 76."""
    with folder.stacks.open("w") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    step = folder.status().get("step")
    reason = f"no step was finished within {secs:g} s (train.step_timeout_secs)"
    folder.set_status("failed", step=step, reason=reason)
    print(
        f"StalledError: {reason}; the stacks of all threads are in {folder.stacks}; "
        "the same command goes on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    log.close()
    # The main thread hangs in a step and cannot be asked to leave.
    os._exit(EXIT_STALLED)


def _write_communication(plan: Plan, folder: RunFolder) -> None:
    """What was counted in the programs of all attempts, beside the model."""
    if plan.programs is None:
        return
    try:
        earlier = read_communication(folder.path)
        found = with_earlier(plan.programs.sent(), earlier)
        rows = [row._asdict() for row in found]
    except ConfigError as error:
        print(f"{folder.communication} was not written: {error}", file=sys.stderr)
    else:
        write_text(folder.communication, csv_text(rows))


def _report(folder: RunFolder, console: Console) -> None:
    """Writes the page; the run is done with or without it."""
    try:
        console.say(f"report: {write_report(folder.path)}")
    except (ReportError, OSError) as error:
        print(
            f"the report was not written: {error}\n"
            f"  python -m jopt report {folder.path} writes it",
            file=sys.stderr,
        )


def _opening(plan: Plan, folder: RunFolder, first: int) -> str:
    config = plan.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(plan.params))
    devices = "x".join(str(size) for size in plan.mesh.shape.values())
    start = f"resuming at step {first}" if first else "starting"
    return (
        f"{folder.path}: {start} of {config.train.steps}, {parameters:,} parameters, "
        f"{config.train.compute_dtype}, mesh {devices} on {jax.default_backend()}"
    )


def _evaluate(
    plan: Plan, source: Source, state: TrainState, log: MetricsLog
) -> dict[str, Any]:
    """The final evaluation: all of the validation split once, copies and shifts."""
    added = totals(plan.sums, state, source.evaluation(whole=True), plan.put)
    result = plan.task.results(added)
    copies = source.corrupted()
    result |= corrupted(plan.task, plan.sums, state, copies, plan.put)
    result |= shifted(plan.task, plan.sums_among, state, source.shifted(), plan.put)
    step = int(state.step)
    log.write({"step": step, "tokens": plan.seen(state), "final": True, **result})
    return result


def _sample(plan: Plan, params: Any, model_state: Any) -> str:
    """Text that the model writes, the same for the same parameters and seed."""
    config = plan.config.eval
    if not (plan.task.writes_text and config.sample_tokens):
        return ""
    tokens = models.generate(
        plan.model,
        params,
        model_state,
        config.prompt.encode(),
        key=jax.random.key(plan.config.seed),
        num_tokens=config.sample_tokens,
        temperature=0.8,
    )
    return bytes(int(t) for t in tokens).decode("utf-8", errors="replace")
