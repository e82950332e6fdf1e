"""What a step would take on networks of many speeds, and what is known of it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jopt.errors import ConfigError
from jopt.parallel import (
    ARCHETYPES,
    GIGABIT,
    Network,
    compute_utilization,
    ring_bytes,
    step_seconds,
)

Key = tuple[float, str, int, int]  # Gbit/s, method, sites, period
MEASURED = ("gbits", "method", "sites", "period", "wire_bytes", "step_secs")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and the machines that train it.

    Attributes:
        params: their number.
        step_flops: of a whole step, forward and backward.
        bytes_per_param: of a gradient on the wire.
        chips_per_site: that share the compute of a site.
        flops_per_chip: per second, reached and not of the data sheet.
        compute_secs: of a step; instead of the two before it.
        probability: of a step without a gradient, for `palsgd`.
    """

    params: float
    step_flops: float
    bytes_per_param: float
    chips_per_site: int
    flops_per_chip: float
    compute_secs: float | None = None
    probability: float = 0.1

    def compute(self, sites: int) -> float:
        """Seconds of compute in a step: FLOPs / (chips Q)."""
        if self.compute_secs is not None:
            return self.compute_secs
        return self.step_flops / (sites * self.chips_per_site * self.flops_per_chip)


class Row(NamedTuple):
    """A step of one method on one network; None is what nobody has counted.

    Attributes:
        gbits: of the slow link, per second.
        latency_secs: of it.
        method, sites, period: as in `jopt.parallel.step_seconds`.
        payload_hlo: bytes that cross sites per step, read from a compiled program.
        payload_model: the same by the number of parameters.
        wire_model: bytes that a site's chip sends per step in a ring.
        wire_measured: bytes that went over a real link per step.
        secs_model: of a step.
        secs_measured: of a step.
        utilization_model: share of the step that computes.
    """

    gbits: float
    latency_secs: float
    method: str
    sites: int
    period: int
    payload_hlo: float | None
    payload_model: float
    wire_model: float
    wire_measured: float | None
    secs_model: float
    secs_measured: float | None
    utilization_model: float


def network(gbits: float, latency_secs: float | None = None) -> Network:
    """A link of so many Gbit/s, with the latency of the archetype that it reaches.

    >>> network(50.0).latency_secs, network(400.0).latency_secs
    (0.01, 0.0001)
    """
    bandwidth = gbits * GIGABIT
    if latency_secs is None:
        reached = [
            a for a in ARCHETYPES.values() if bandwidth >= a.bandwidth_bytes_per_sec
        ]
        slowest = ARCHETYPES["low"].latency_secs
        latency_secs = min((a.latency_secs for a in reached), default=slowest)
    return Network(bandwidth, latency_secs)


def forecast(
    work: Workload,
    gbits: Iterable[float],
    sites: Sequence[int],
    methods: Sequence[tuple[str, int]],
    *,
    latency_secs: float | None = None,
    payload_hlo: float | None = None,
    measured: dict[Key, tuple[float, float]] | None = None,
) -> list[Row]:
    """A row for each bandwidth, method with its period, and number of sites.

    Args:
        work: what is trained, and on what.
        gbits: bandwidths of the slow link.
        sites: numbers of them.
        methods: (name, period); the period of `ddp` is 1.
        latency_secs: of the slow link; that of the archetypes by default.
        payload_hlo: bytes of a synchronisation, counted in a program; each method does
            one of them per period.
        measured: wire bytes and seconds per step, by network and method.
    """
    rows = []
    for speed in gbits:
        link = network(speed, latency_secs)
        for method, period in methods:
            for count in sites:
                compute = work.compute(count)
                chips = count * work.chips_per_site
                secs = step_seconds(
                    method,
                    work.params,
                    work.bytes_per_param,
                    count,
                    *link,
                    period,
                    compute,
                    chips=chips,
                    probability=work.probability,
                )
                used = compute
                if method == "palsgd":
                    used *= 1 - work.probability
                width = 0.5 if method == "streaming_diloco" else work.bytes_per_param
                payload = work.params * width / period
                ring = count if method == "streaming_diloco" else chips
                known = (measured or {}).get((speed, method, count, period))
                rows.append(
                    Row(
                        gbits=speed,
                        latency_secs=link.latency_secs,
                        method=method,
                        sites=count,
                        period=period,
                        payload_hlo=None
                        if payload_hlo is None
                        else payload_hlo / period,
                        payload_model=payload,
                        wire_model=ring_bytes("all-reduce", ring, payload),
                        wire_measured=None if known is None else known[0],
                        secs_model=secs,
                        secs_measured=None if known is None else known[1],
                        utilization_model=compute_utilization(used, secs),
                    )
                )
    return rows


def read_measured(path: Path) -> dict[Key, tuple[float, float]]:
    """What `benchmarks/network.py` wrote. Fails: `ConfigError` for another file."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            (
                float(row["gbits"]),
                row["method"],
                int(row["sites"]),
                int(row["period"]),
            ): (float(row["wire_bytes"]), float(row["step_secs"]))
            for row in rows
        }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} has no measurements: {type(error).__name__} {error}; a CSV file "
            f"with the columns {', '.join(MEASURED)} is expected, as "
            "benchmarks/network.py writes it"
        ) from None
