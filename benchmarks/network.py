"""Two hosts on a shaped link: bytes on the wire and step times, beside the model.

  python benchmarks/network.py
  python benchmarks/network.py --gbits=0.05,0.1,1 --params=1000000 --csv=measured.csv

Two network namespaces are joined by a link that tbf shapes (root, iproute2); a process
in each averages so many float32 parameters every H steps, the traffic of local SGD
and, with H = 1, of synchronous data parallelism. Where the machine lacks a piece, its
absence is printed and the bytes of loopback stand in; its speed is that of no network.

Columns: `hlo` is counted in the compiled program, `model` is bytes over bandwidth plus
latency (that of the mean of one number, measured) plus compute (measured alone),
`measured` is /proc/net/dev and the clock. The CSV is what
`python -m jopt network --measured` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _hosts import LOOPBACK, Hosts, two_hosts, two_processes, why_not

WORKER = Path(__file__).with_name("_exchange_worker.py")
LIMIT = 300  # seconds for one speed
HEADER = (
    *("Gbit/s", "H", "payload MB (hlo)", "wire MB (model)", "wire MB (measured)"),
    *("step ms (model)", "step ms (measured)"),
)


def exchange(
    hosts: Hosts, params: int, steps: int, periods: Sequence[int]
) -> dict[str, Any]:
    """What the first of the two hosts measured."""
    command = [str(WORKER), hosts.interface, str(params), str(steps)]
    with two_processes(hosts, [*command, ",".join(map(str, periods))]) as pair:
        said = pair.ends(LIMIT)
    lines = [x for x in said.splitlines() if x.startswith("FOUND ")]
    return json.loads(lines[0].removeprefix("FOUND "))


def rows(
    found: dict[str, Any], params: int, gbits: float | None, hosts: Hosts
) -> list[dict[str, Any]]:
    """The measured figures of one speed, and those of the model."""
    from jopt.parallel import GIGABIT, ring_bytes, step_seconds

    table = []
    for text, (wire, secs) in found["periods"].items():
        period = int(text)
        model = None
        if gbits is not None:
            link = gbits * GIGABIT, found["latency_secs"]
            compute = found["compute_secs"]
            model = step_seconds("local_sgd", params, 4, 2, *link, period, compute)
        table.append(
            {
                "gbits": "" if gbits is None else gbits,
                "method": "ddp" if period == 1 else "local_sgd",
                "sites": 2,
                "period": period,
                "wire_bytes": wire / (2 if hosts.both else 1),
                "step_secs": secs,
                "payload_hlo": found["payload_hlo"] / period,
                "wire_model": ring_bytes("all-reduce", 2, 4 * params) / period,
                "secs_model": "" if model is None else model,
            }
        )
    return table


def shown(row: dict[str, Any]) -> list[str]:
    model = row["secs_model"]
    return [
        str(row["gbits"] or "loopback"),
        str(row["period"]),
        *(f"{row[k] / 1e6:.3f}" for k in ("payload_hlo", "wire_model", "wire_bytes")),
        "-" if model == "" else f"{1e3 * model:.1f}",
        f"{1e3 * row['step_secs']:.1f}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one table; 0 done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gbits", default="0.05,0.1,1", help="speeds of the link")
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--periods", default="1,8", metavar="H,...")
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(argv)
    from jopt.reporting import csv_text, markdown_table, write_text

    periods = [int(word) for word in options.periods.split(",")]
    if any(options.steps % period for period in periods):
        parser.error(f"--steps={options.steps} is no multiple of every period")
    reason = "--loopback" if options.loopback else why_not()
    table: list[dict[str, Any]] = []
    if reason is not None:
        print(f"no shaped link: {reason}; bytes of loopback stand in")
        found = exchange(LOOPBACK, options.params, options.steps, periods)
        table += rows(found, options.params, None, LOOPBACK)
    else:
        for gbits in map(float, options.gbits.split(",")):
            with two_hosts(gbits) as hosts:
                found = exchange(hosts, options.params, options.steps, periods)
            table += rows(found, options.params, gbits, hosts)
    print(markdown_table(HEADER, map(shown, table)))
    if options.csv is not None:
        write_text(options.csv, csv_text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
