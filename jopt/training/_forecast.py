"""What a step would take on networks of many speeds, and what is known of it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jopt.errors import ConfigError
from jopt.parallel import (
    ARCHETYPES,
    GIGABIT,
    Network,
    Sends,
    compute_utilization,
    default_sends,
    step_seconds,
    wire_bytes,
)

# Gbit/s, or None for a link of no stated speed; method, sites, period.
Key = tuple[float | None, str, int, int]
Measured = Mapping[Key, tuple[float, float]]
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


class Case(NamedTuple):
    """A method as it is set.

    Attributes:
        method: as in `jopt.parallel.step_seconds`.
        period: H; 1 for `ddp`.
        every: steps from one sending of a parameter to its next, which fragments that
            do not divide H make shorter.
        fragments: P.
        sends: the collectives of a synchronisation of so many sites; None is what the
            method is published with.
        payload_hlo: bytes of a synchronisation, counted in the programs of the method;
            None where they were not compiled.
    """

    method: str
    period: int
    every: int
    fragments: int = 1
    sends: Callable[[int], Sends] | None = None
    payload_hlo: float | None = None


class Row(NamedTuple):
    """A step of one method on one network; None is what nobody has counted.

    Attributes:
        gbits: of the slow link, per second.
        latency_secs: of it.
        method, sites, period: as in `jopt.parallel.step_seconds`.
        payload_hlo: bytes of results that cross sites per step on a chip, read from
            compiled programs of this method.
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
    cases: Sequence[Case],
    *,
    latency_secs: float | None = None,
    measured: Measured | None = None,
) -> list[Row]:
    """A row for each bandwidth, method with its period, and number of sites.

    Args:
        work: what is trained, and on what.
        gbits: bandwidths of the slow link.
        sites: numbers of them, one replica at each.
        cases: the methods.
        latency_secs: of the slow link; that of the archetypes by default.
        measured: wire bytes and seconds per step, by network and method.
    """
    return [
        _row(work, speed, latency_secs, case, count, measured or {})
        for speed in gbits
        for case in cases
        for count in sites
    ]


def _row(
    work: Workload,
    gbits: float,
    latency_secs: float | None,
    case: Case,
    sites: int,
    measured: Measured,
) -> Row:
    link = network(gbits, latency_secs)
    compute, chips = work.compute(sites), sites * work.chips_per_site
    if case.sends is None:
        sends = default_sends(case.method, work.params, work.bytes_per_param)
    else:
        sends = case.sends(sites)
    secs = step_seconds(
        case.method,
        work.params,
        work.bytes_per_param,
        sites,
        *link,
        case.every,
        compute,
        chips=chips,
        probability=work.probability,
        sends=sends,
        fragments=case.fragments,
    )
    skipped = work.probability if case.method == "palsgd" else 0.0
    wire_measured, secs_measured = _known(
        measured, gbits, case.method, sites, case.period
    )
    hlo = case.payload_hlo
    return Row(
        gbits=gbits,
        latency_secs=link.latency_secs,
        method=case.method,
        sites=sites,
        period=case.period,
        payload_hlo=None if hlo is None else hlo / case.every,
        payload_model=sum(size for _, size in sends) / case.every,
        wire_model=wire_bytes(sends, sites, chips) / case.every,
        wire_measured=wire_measured,
        secs_model=secs,
        secs_measured=secs_measured,
        utilization_model=compute_utilization((1 - skipped) * compute, secs),
    )


def _known(
    measured: Measured, gbits: float, *case: Any
) -> tuple[float | None, float | None]:
    """Wire bytes and seconds of a step, where they were measured.

    Bytes do not depend on the speed of the link, so those of loopback stand for any;
    its seconds are those of no network.
    """
    if (gbits, *case) in measured:
        return measured[gbits, *case]
    loopback = measured.get((None, *case))
    return (None, None) if loopback is None else (loopback[0], None)


def read_measured(path: Path) -> Measured:
    """What `benchmarks/network.py` wrote. Fails: `ConfigError` for another file.

    A row without `gbits` is one of loopback.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            (
                float(row["gbits"]) if row["gbits"] else None,
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
