"""`python -m jopt sweep`: trials of every arm, then the best of each on fresh seeds."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError, print_error
from jopt.reporting import csv_text, write_text
from jopt.studies.sweeps._definition import (
    Job,
    final_jobs,
    tuning_jobs,
    validate_sweep,
)
from jopt.studies.sweeps._identity import has_accelerator
from jopt.studies.sweeps._index import (
    SLURM,
    best_trials,
    job_records,
    read_index,
    refuse_foreign,
    result,
    write_index,
)
from jopt.studies.sweeps._queue import ENDED, FAILED, STATES, Queue
from jopt.studies.sweeps._slurm import split_slurm, submit
from jopt.studies.sweeps._workers import Workers, available_cores
from jopt.training._flags import CommandLine, parse
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_PREEMPTED,
    EXIT_USAGE,
    StopSignals,
)

USAGE = """\
python -m jopt sweep --config=FILE[:ARG] [--config.KEY=VALUE ...] [--workdir=FOLDER]"""
EPILOG = """\
slurm:      --slurm=N starts this command in N tasks of a Slurm array, which share the
            folder; --slurm_KEY=VALUE is for each task, for example
            --slurm_partition=gpu --slurm_timeout_min=240 --slurm_gpus_per_node=1

exit codes: 0 all is done, 1 a job failed (see queue/*.log, then --retry_failed),
            2 bad config or usage, 75 not all is done and the same command goes on
"""


def main(argv: Sequence[str]) -> int:
    """Runs, or goes on with, the sweep of a config; returns the exit code."""
    with StopSignals() as signals:
        try:
            options, rest = split(argv)
            return _main(options, parse(rest), signals)
        except ConfigError as error:
            print_error(error)
            return EXIT_USAGE
        except OSError as error:
            print_error(error)
            return EXIT_FAILURE


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags, and those that say which config and where.

    `slurm` is what is for Slurm, and `own` the flags without it.
    """
    slurm, own = split_slurm(argv)
    options, rest = _parser().parse_known_args(own)
    options.slurm, options.own = slurm, own
    return options, rest


def default_folder(line: CommandLine) -> Path:
    """Where a sweep goes: `--workdir`, else `runs/<config>`."""
    return line.workdir or Path("runs") / line.config_name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt sweep",
        usage=USAGE,
        description="The same command again goes on where it stopped, and so do "
        "several at a time on one folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=1 if has_accelerator() else len(available_cores()) or 1,
        help="jobs at a time; one per core by default, 1 with an accelerator",
    )
    parser.add_argument("--limit", type=_positive, help="start so many jobs at most")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), help="i/n: only every n-th tuning job"
    )
    parser.add_argument(
        "--retry_failed", action="store_true", help="run failed jobs again"
    )
    parser.add_argument(
        "--stale_secs",
        type=_positive,
        default=300,
        help="a job without a heartbeat for so long is taken over (300)",
    )
    parser.add_argument("--status", action="store_true", help="count jobs, run none")
    parser.add_argument("--collect", type=Path, metavar="FILE.csv", help="all results")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _shard(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with 1 <= i <= n")
    return int(first), int(count)


def _main(options: argparse.Namespace, line: CommandLine, signals: StopSignals) -> int:
    if line.rest:
        raise ConfigError(f"unexpected argument {line.rest[0]!r}; see --help")
    if line.sweep is not None:
        raise ConfigError("--sweep is for a run; the sweep itself passes it on")
    validate_sweep(line.config)
    folder = default_folder(line)
    queue = Queue(folder, stale_secs=options.stale_secs)
    if options.status or options.collect:
        index = read_index(folder)
        if options.collect:
            write_text(options.collect, collected(folder, index, queue))
        if options.status:
            print(status_lines(index, queue))
        return EXIT_DONE
    if options.slurm and not line.dry_run:
        return _submit(options, folder)
    tune = tuning_jobs(line.config)
    if line.dry_run:
        print(_plan(line, folder, tune))
        return EXIT_DONE
    return _run(options, line, folder, queue, tune, signals)


def _submit(options: argparse.Namespace, folder: Path) -> int:
    """Starts this sweep in a Slurm array.

    The tasks write the index: which run is which may depend on their devices.
    """
    refuse_foreign(folder)
    logs = folder / SLURM
    ids = submit(options.slurm, logs, options.own)
    print(
        f"{len(ids)} tasks for {folder}: {' '.join(ids)}\n"
        f"what they print is in {logs}; --status says how far the sweep is"
    )
    return EXIT_DONE


def _run(
    options: argparse.Namespace,
    line: CommandLine,
    folder: Path,
    queue: Queue,
    tune: list[Job],
    signals: StopSignals,
) -> int:
    config = line.config
    workers = Workers(
        queue,
        workers=options.workers,
        stale_secs=options.stale_secs,
        extra=["--strict_restore"] if line.strict_restore else [],
        signals=signals,
        say=lambda text: print(text, flush=True),
        limit=options.limit,
    )
    index = write_index(folder, line.config_name, config, tune)
    if options.retry_failed:
        queue.retry_failed(tune)
    first, count = options.shard
    workers.run(tune, tune[first - 1 :: count], job_records(index))
    jobs = tune
    if config.final.seeds and all(queue.state(job.id) in ENDED for job in tune):
        best = best_trials(folder, index)
        chosen = {job.arm: job for job in reversed(tune) if job.trial == best[job.arm]}
        final = final_jobs(config, chosen)
        jobs = [*tune, *final]
        index = write_index(folder, line.config_name, config, jobs)
        if options.retry_failed:
            queue.retry_failed(final)
        workers.run(final, final, job_records(index))
    print(f"{folder}\n{status_lines(index, queue)}")
    states = {queue.state(job.id) for job in jobs}
    if FAILED in states:
        return EXIT_FAILURE
    return EXIT_DONE if states <= set(ENDED) else EXIT_PREEMPTED


def _plan(line: CommandLine, folder: Path, tune: Sequence[Job]) -> str:
    """What would run, as text."""
    config = line.config
    lines = [f"python -m jopt train {' '.join(job.flags)}  # {job.id}" for job in tune]
    final = len(config.final.seeds) * len(config.arms)
    size = f" on :{config.final.size}" if config.final.size else ""
    tokens = {job.id: job.tokens for job in tune}
    return "\n".join(
        [
            *lines,
            f"{folder}: {len(tokens)} runs to tune {len(config.arms)} arms, "
            f"{config.trials} trials each, {sum(tokens.values()):,} tokens; "
            f"then {final} with the best of each{size}",
        ]
    )


def status_lines(index: Mapping[str, Any], queue: Queue) -> str:
    """Jobs by stage, arm and state, and why some failed."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    failed = []
    for job in index["jobs"]:
        state = queue.state(job["id"])
        counts.setdefault((job["stage"], job["arm"]), Counter())[state] += 1
        if state == FAILED:
            failure = queue.failure(job["id"]) or {}
            failed.append(
                f"{job['id']} failed, attempt {failure.get('attempts')}: "
                f"{failure.get('reason')}"
            )
    lines = [
        f"{stage:5} {arm:12} "
        + ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
        for (stage, arm), count in counts.items()
    ]
    return "\n".join([*lines, *failed])


def collected(folder: Path, index: Mapping[str, Any], queue: Queue) -> str:
    """Every job of a sweep as CSV, diverged and unfinished ones too."""
    keys = sorted({key for job in index["jobs"] for key in job["values"]})
    metric = index["metric"]
    return csv_text(
        [
            {
                **{key: job[key] for key in ("id", "stage", "arm", "trial", "seed")},
                "state": queue.state(job["id"]),
                metric: result(folder / job["id"], metric),
                **{key: job["values"].get(key) for key in keys},
            }
            for job in index["jobs"]
        ]
    )
