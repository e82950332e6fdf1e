"""Training on two hosts with a shaped link: time and bytes of a step, against DDP.

  python benchmarks/network_runs.py
  python benchmarks/network_runs.py --gbits=0.05 --methods=ddp,palsgd --csv=runs.csv

The hosts are those of network.py; each runs `python -m jopt train` with one of two
replicas, or with half of the batch (`ddp`). Times and bytes are of the steps from the
second meeting to the last but one, so without compilation and evaluation. Where the
machine lacks a piece, that is said and nothing is measured; `--loopback` runs without a
network, for its bytes.

`model`: compute, which is a run that meets at its end only, and bytes over bandwidth
plus the measured latency of the mean of one number (`jopt.parallel.step_seconds`).
`measured`: the run's own clock, and /proc/net/dev. Over DDP: step time by that of `ddp`
in the same column.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from _hosts import LOOPBACK, Hosts, Pair, two_hosts, two_processes, why_not
from network import exchange

LIMIT = 600  # seconds for one run
METHODS = ("ddp", "local_sgd", "diloco", "palsgd")
REPLICAS = 2
QUIET = (
    "--config.mesh.replica=2",
    "--config.monitor.every_steps=0",
    "--config.checkpoint.every_steps=0",
    "--config.eval.sample_tokens=0",
    "--config.report.html=false",
)
HEADER = (
    *("Gbit/s", "method", "H", "wire MB (model)", "wire MB (measured)"),
    *("step ms (model)", "step ms (measured)"),
    *("over DDP (model)", "over DDP (measured)"),
)


class Measured(NamedTuple):
    """Of a run: a step on average, and its number of parameters."""

    step_secs: float
    wire_bytes: float
    params: int


def run(
    hosts: Hosts, config: str, method: str, period: int, rounds: int, *own: str
) -> Measured:
    """Trains on both hosts, and measures from the second meeting on.

    Args:
        hosts: where.
        config: FILE[:SIZE].
        method: one of `METHODS`.
        period: H; of `ddp` a number of steps that is measured like a round.
        rounds: so many of them; the first two and the last are not measured.
        own: other flags.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *("-m", "jopt", "train", f"--config={config}", f"--workdir={folder}/run"),
            *QUIET,
            f"--config.train.steps={period * rounds}",
            f"--config.train.log_every_steps={period}",
        ]
        if method != "ddp":
            flags += [
                f"--config.local_updates.name={method}",
                f"--config.local_updates.period={period}",
            ]
        metrics = Path(folder, "run", "metrics.jsonl")
        first, last = 2 * period, (rounds - 1) * period
        with two_processes(hosts, [*flags, *own]) as pair:
            before = _at_step(pair, metrics, first)
            after = _at_step(pair, metrics, last)
            said = pair.ends(LIMIT)
    found = re.search(r"([\d,]+) parameters", said)
    if found is None:
        raise RuntimeError(f"a run does not say its number of parameters:\n{said}")
    secs, sent = (b - a for a, b in zip(before, after, strict=True))
    steps = last - first
    return Measured(secs / steps, sent / steps, int(found[1].replace(",", "")))


def _at_step(pair: Pair, metrics: Path, step: int) -> tuple[float, float]:
    """Seconds of the run at the record of a step, and the bytes sent soon after.

    A record is written a step late and seen some milliseconds later: with steps of
    these bytes of DDP are a few steps off, which `rounds` must be many against.
    """
    from jopt.reporting import read_metrics

    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        ended = all(process.poll() is not None for process in pair.started)
        if metrics.exists():
            for record in read_metrics(metrics):
                if record["step"] == step and "time/tokens_per_sec" in record:
                    return record["wall_secs"], pair.sent()
        if ended:
            raise RuntimeError(f"the run ended before step {step}:\n{pair.ends(1)}")
        time.sleep(0.005)
    raise RuntimeError(f"step {step} was not reached in {LIMIT} s")


def measured(
    hosts: Hosts, options: argparse.Namespace, gbits: float | None
) -> list[dict[str, object]]:
    """A row for each method at one speed."""
    from jopt.parallel import GIGABIT, ring_bytes, step_seconds

    period, rounds = options.period, options.rounds
    apart = f"--config.local_updates.period={period * rounds}"
    given = (hosts, options.config)
    alone = run(*given, "local_sgd", period, rounds, *options.own, apart).step_secs
    latency = exchange(hosts, 1, 8, (1,))["latency_secs"]
    rows = []
    for method in options.methods:
        p, own = 0.0, [*options.own]
        if method == "palsgd":
            p = options.probability
            own += [
                f"--config.local_updates.probability={p}",
                f"--config.local_updates.learning_rate={options.pull_rate}",
            ]
        found = run(*given, method, period, rounds, *own)
        every = 1 if method == "ddp" else period
        wire = ring_bytes("all-reduce", REPLICAS, 4 * found.params) / every
        secs: float | None = None
        if gbits is not None:
            link = (gbits * GIGABIT, latency)
            of = (method, found.params, 4, REPLICAS, *link, every, alone)
            secs = step_seconds(*of, probability=p)
        rows.append(
            {
                "gbits": "" if gbits is None else gbits,
                "method": method,
                "sites": REPLICAS,
                "period": every,
                "wire_bytes": found.wire_bytes,
                "step_secs": found.step_secs,
                "wire_model": wire,
                "secs_model": "" if secs is None else secs,
                "compute_secs": alone,
                "latency_secs": latency,
            }
        )
    return rows


def shown(row: dict, ddp: dict | None) -> list[str]:
    """A row of the table, with the row of `ddp` at the same speed."""

    def ratio(key: str) -> str:
        if ddp is None or row[key] == "":
            return "-"
        return f"{row[key] / ddp[key]:.3f}"

    model = row["secs_model"]
    return [
        str(row["gbits"] or "loopback"),
        row["method"],
        str(row["period"]),
        *(f"{row[key] / 1e6:.3f}" for key in ("wire_model", "wire_bytes")),
        "-" if model == "" else f"{1e3 * model:.1f}",
        f"{1e3 * row['step_secs']:.1f}",
        ratio("secs_model"),
        ratio("step_secs"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one table; 0 done."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="--config.KEY=VALUE is handed on to the runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="configs/adamw_lm.py:micro")
    parser.add_argument("--gbits", default="0.05,0.1,1", help="speeds of the link")
    parser.add_argument("--methods", default="ddp,diloco,palsgd", metavar="NAME,...")
    parser.add_argument("--period", type=int, default=8, metavar="H")
    parser.add_argument("--rounds", type=int, default=8, help="4 or more")
    parser.add_argument("--probability", type=float, default=0.1, help="of palsgd")
    parser.add_argument("--pull_rate", type=float, default=0.0015, help="of palsgd")
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--csv", type=Path)
    options, options.own = parser.parse_known_args(argv)
    if strange := [word for word in options.own if not word.startswith("--config.")]:
        parser.error(
            f"unknown: {' '.join(strange)}; --config.KEY=VALUE is for the runs"
        )
    options.methods = options.methods.split(",")
    if not set(options.methods) <= set(METHODS):
        parser.error(f"--methods are some of {', '.join(METHODS)}")
    if options.rounds < 4:
        parser.error("--rounds is 4 or more: the first two and the last do not count")
    from jopt.reporting import csv_text, markdown_table, write_text

    table: list[dict] = []
    if options.loopback:
        table += measured(LOOPBACK, options, None)
    elif reason := why_not():
        print(f"skipped, no shaped link: {reason}")
        return 0
    else:
        for gbits in map(float, options.gbits.split(",")):
            with two_hosts(gbits) as hosts:
                table += measured(hosts, options, gbits)
    ddp = {row["gbits"]: row for row in table if row["method"] == "ddp"}
    print(markdown_table(HEADER, [shown(row, ddp.get(row["gbits"])) for row in table]))
    if options.csv is not None:
        write_text(options.csv, csv_text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
