"""A model of time on a network: bytes over bandwidth, plus latency.

S bytes of payload, n devices in a ring, W bytes per second, e seconds. Nothing here is
measured; a figure made from these is labelled `model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from jopt.errors import ConfigError, check_choice

METHODS = (
    "ddp",
    "local_sgd",
    "post_local_sgd",
    "slowmo",
    "diloco",
    "muloco",
    "streaming_diloco",
    "eager_diloco",
    "palsgd",
    "noloco",
)
# Collectives, as (kind, bytes of the result on one device).
Sends: TypeAlias = Sequence[tuple[str, float]]
Latency: TypeAlias = Literal["once", "ring"]
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
    latency: Latency = "once",
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
    sends = (("all-reduce", payload_bytes),)
    network = Network(bandwidth_bytes_per_sec, latency_secs)
    return _exchange_seconds(sends, n, n, network, 1, latency)


def default_sends(method: str, params: float, bytes_per_param: float) -> Sends:
    """The collectives of one synchronisation of all parameters, as published.

    `streaming_diloco` sends codes of four bits, which cannot be summed on the way: an
    all-to-all and an all-gather of N/2 bytes. A replica of `noloco` sends move and
    anchor to one other. All others do an all-reduce.

    Args:
        method: one of `METHODS`.
        params: N.
        bytes_per_param: of gradients and outer gradients on the wire.

    >>> default_sends("muloco", 1e9, 4)
    (('all-reduce', 4000000000.0),)
    """
    check_choice("method", method, METHODS)
    if method == "streaming_diloco":
        return (("all-to-all", params / 2), ("all-gather", params / 2))
    if method == "noloco":
        return (("collective-permute", 2 * params * bytes_per_param),)
    return (("all-reduce", params * bytes_per_param),)


def wire_bytes(sends: Sends, replicas: int, chips: int | None = None) -> float:
    """Bytes that one chip sends for collectives over the slow link.

    What is summed goes round all chips, as in the published model, and what is only
    moved from a chip of each island to those of the others.

    Args:
        sends: collectives, as (kind, bytes of the result on one device).
        replicas: R, islands joined by the slow link.
        chips: n; `replicas` by default.

    >>> wire_bytes([("all-reduce", 8.0), ("reduce-scatter", 2.0)], 4)
    18.0
    """
    chips = replicas if chips is None else chips
    return sum(_on_ring(kind, replicas, chips, size) for kind, size in sends)


def _on_ring(kind: str, replicas: int, chips: int, result: float) -> float:
    n = _ring(kind, replicas, chips)
    if n == 1:
        return 0.0
    return ring_bytes(kind, n, result * n if kind == "reduce-scatter" else result)


def _ring(kind: str, replicas: int, chips: int) -> int:
    return chips if kind in ("all-reduce", "reduce-scatter") else replicas


def _messages(kind: str, n: int) -> int:
    """How many follow each other in a ring of n devices."""
    if kind == "collective-permute":
        return min(n - 1, 1)
    return (2 if kind == "all-reduce" else 1) * (n - 1)


def _exchange_seconds(
    sends: Sends,
    replicas: int,
    chips: int,
    network: Network,
    fragments: int,
    latency: Latency,
) -> float:
    """Seconds of collectives over one link, each part of the parameters apart."""
    check_choice("latency", latency, ("once", "ring"))
    following = sum(_messages(kind, _ring(kind, replicas, chips)) for kind, _ in sends)
    messages = min(following, 1) if latency == "once" else following
    bandwidth, secs = network
    sent = wire_bytes(sends, replicas, chips)
    return sent / bandwidth + fragments * messages * secs


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
    sends: Sends | None = None,
    fragments: int = 1,
    latency: Latency = "once",
) -> float:
    """Modelled seconds of an average step, nothing overlapped.

    With n chips in R islands, AR the all-reduce of all parameters, W1, e1 the slow link
    and W0, e0 that inside an island:

    - `ddp`: t + AR_n(W1, e1)
    - `local_sgd`, `slowmo`, `diloco`, `muloco`, `eager_diloco`, and `post_local_sgd`
      after its warm-up, R >= 2: t + AR_{n/R}(W0, e0) + AR_n(W1, e1)/H
    - R = 1: t + AR_n(W1, e1)(1 + 1/H), one island that spans the slow link
    - `palsgd`: as `diloco`, with the first two terms times 1 - p
    - `streaming_diloco`: as `diloco` with codes of four bits in place of AR_n
    - `noloco`: as `diloco` with 2 N b bytes to one other in place of AR_n

    `sends` are other collectives in that place: codes of another width, say. In P
    fragments the same bytes go in P parts, with a latency each.

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
        sends: collectives of a synchronisation of all parameters, as (kind, bytes of
            the result on one chip); `default_sends` by default. `ddp` ignores them.
        fragments: P.
        latency: as in `all_reduce_seconds`; those that make one exchange together, as
            all-to-all and all-gather, count one with `once`.

    Fails: `ConfigError` for an unknown method, or islands that do not divide the chips.

    Reference: as `all_reduce_seconds`; `palsgd`, `streaming_diloco` and `noloco` are
    derived.

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
        if sends is None:
            sends = default_sends(method, params, bytes_per_param)
        link = Network(bandwidth_bytes_per_sec, latency_secs)
        slow = _exchange_seconds(sends, replicas, chips, link, fragments, latency)
    skipped = probability if method == "palsgd" else 0.0
    return (1 - skipped) * (compute_secs + inside) + slow / period


def compute_utilization(compute_secs: float, step_secs: float) -> float:
    """Share of a step that computes: t_comp / (t_comp + t_comm).

    >>> compute_utilization(1.0, 4.0)
    0.25
    """
    return compute_secs / step_secs
