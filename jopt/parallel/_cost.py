"""A model of time on a network: bytes over bandwidth, plus latency.

S bytes of payload, n devices in a ring, W bytes per second, e seconds. Nothing here is
measured; a figure made from these is labelled `model`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from jopt.errors import ConfigError, check_choice

METHODS = ("ddp", "local_sgd", "diloco", "palsgd", "streaming_diloco")
GIGABIT = 1e9 / 8  # bytes


class Network(NamedTuple):
    """A link.

    Attributes:
        bandwidth_bytes_per_sec: of each device, in each direction.
        latency_secs: of one collective.
    """

    bandwidth_bytes_per_sec: float
    latency_secs: float


# Charles et al. (2025, arXiv 2503.09799). A link inside an island is always `high`.
ARCHETYPES = {
    "high": Network(400 * GIGABIT, 1e-4),
    "medium": Network(100 * GIGABIT, 1e-3),
    "low": Network(10 * GIGABIT, 1e-2),
}
FLOPS_PER_CHIP = 300e12  # per second, as there


def ring_bytes(kind: str, n: int, payload_bytes: float) -> float:
    """Bytes that one of `n` devices in a ring sends for a collective.

    all-reduce 2(n-1)/n S; all-gather (S gathered) and reduce-scatter (S put in)
    (n-1)/n S; all-to-all (n-1)/n S; a permutation S.

    >>> ring_bytes("all-reduce", 8, 4e9)
    7000000000.0
    """
    shares = {
        "all-reduce": 2 * (n - 1) / n,
        "all-gather": (n - 1) / n,
        "reduce-scatter": (n - 1) / n,
        "all-to-all": (n - 1) / n,
        "collective-permute": 1.0,
    }
    check_choice("collective", kind, shares)
    return shares[kind] * payload_bytes


def all_reduce_seconds(
    payload_bytes: float,
    n: int,
    bandwidth_bytes_per_sec: float,
    latency_secs: float,
    *,
    latency: Literal["once", "ring"] = "once",
) -> float:
    """Seconds of an all-reduce: 2(n-1)/n S/W + e; 0 for one device.

    Args:
        payload_bytes: S, of the array on each device.
        n: devices in the ring.
        bandwidth_bytes_per_sec: W.
        latency_secs: e.
        latency: `once` counts e once, a lower bound, as in the DiLoCo scaling study;
            `ring` counts it for each of the 2(n-1) messages that follow each other.

    Reference: Charles et al. (2025), Communication-Efficient Language Model Training
    Scales Reliably and Robustly, arXiv 2503.09799, appendix A.

    >>> round(all_reduce_seconds(2e9, 8, 1.25e9, 0.01), 2)  # bfloat16, 10 Gbit/s
    2.81
    """
    if n == 1:
        return 0.0
    check_choice("latency", latency, ("once", "ring"))
    messages = 1 if latency == "once" else 2 * (n - 1)
    sent = ring_bytes("all-reduce", n, payload_bytes)
    return sent / bandwidth_bytes_per_sec + messages * latency_secs


def relative_time(communication_share: float, probability: float, period: int) -> float:
    """Time of PALSGD over that of synchronous data parallelism: (1-c)(1-p) + c/H.

    Derived, not published. With p = 0 it is DiLoCo. A part of the gain is gradients
    that are not computed: report their number beside the time.

    Args:
        communication_share: c, of a data-parallel step, in 0..1.
        probability: p of a step without a gradient.
        period: H steps from one synchronisation to the next.

    >>> round(relative_time(0.20, 0.10, 64), 4), round(relative_time(0.20, 0.0, 64), 4)
    (0.7231, 0.8031)
    """
    share = communication_share
    return (1 - share) * (1 - probability) + share / period


def step_seconds(
    method: str,
    params: float,
    bytes_per_param: float,
    replicas: int,
    bandwidth_bytes_per_sec: float,
    latency_secs: float,
    period: int,
    compute_secs: float,
    *,
    chips: int | None = None,
    island: Network = ARCHETYPES["high"],
    probability: float = 0.0,
    wire_bytes_per_param: float | None = None,
    fragments: int = 1,
    latency: Literal["once", "ring"] = "once",
) -> float:
    """Modelled seconds of an average step, nothing overlapped.

    With n chips in R islands, AR the all-reduce of all parameters, W1, e1 the slow link
    and W0, e0 that inside an island:

    - `ddp`: t + AR_n(W1, e1)
    - `local_sgd`, `diloco`, R >= 2: t + AR_{n/R}(W0, e0) + AR_n(W1, e1)/H
    - R = 1: t + AR_n(W1, e1)(1 + 1/H), one island that spans the slow link
    - `palsgd`: as `diloco`, with the first two terms times 1 - p
    - `streaming_diloco`: as `diloco` with P latencies each H steps; over the slow link
      go an all-to-all and an all-gather of the packed payload, 2(R-1)/R N b (where
      R = 2 that is one all-gather), since a sum has to be done in a wide type

    Args:
        method: one of `METHODS`.
        params: N.
        bytes_per_param: of gradients and outer gradients on the wire.
        replicas: R, islands joined by the slow link.
        bandwidth_bytes_per_sec: W1.
        latency_secs: e1.
        period: H; `ddp` ignores it.
        compute_secs: t, of a step with a gradient, on this number of chips.
        chips: n; `replicas` by default, one chip in each island.
        island: the link inside an island.
        probability: p of `palsgd`.
        wire_bytes_per_param: b of `streaming_diloco`; 0.5, four bits, by default.
        fragments: P of `streaming_diloco`.
        latency: as in `all_reduce_seconds`.

    Fails: `ConfigError` for an unknown method, or islands that do not divide the chips.

    Reference: as `all_reduce_seconds`; `palsgd` and `streaming_diloco` are derived.

    >>> round(step_seconds("ddp", 1e9, 2, 8, 1.25e9, 0.01, 1, 1.0), 2)
    3.81
    >>> round(step_seconds("diloco", 1e9, 2, 8, 1.25e9, 0.01, 30, 1.0), 4)
    1.0937
    """
    check_choice("method", method, METHODS)
    chips = replicas if chips is None else chips
    if replicas < 1 or chips % replicas:
        raise ConfigError(f"{replicas} islands do not divide {chips} chips")
    payload = params * bytes_per_param
    slow = all_reduce_seconds(
        payload, chips, bandwidth_bytes_per_sec, latency_secs, latency=latency
    )
    if method == "ddp":
        return compute_secs + slow
    if replicas == 1:
        inside = slow
    else:
        inside = all_reduce_seconds(
            payload, chips // replicas, *island, latency=latency
        )
    if method == "palsgd":
        return (1 - probability) * (compute_secs + inside) + slow / period
    if method == "streaming_diloco" and replicas > 1:
        width = 0.5 if wire_bytes_per_param is None else wire_bytes_per_param
        sent = ring_bytes("all-reduce", replicas, params * width)
        slow = sent / bandwidth_bytes_per_sec + fragments * latency_secs
    return compute_secs + inside + slow / period


def compute_utilization(compute_secs: float, step_secs: float) -> float:
    """Share of a step that computes: t_comp / (t_comp + t_comm).

    >>> compute_utilization(1.0, 4.0)
    0.25
    """
    return compute_secs / step_secs
