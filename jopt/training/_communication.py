"""What replicas of a run send each other: counted in programs, by a model, measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jopt.parallel import Together, collectives, cross_replica_bytes, wire_bytes
from jopt.training._replicas import Replicas
from jopt.transforms.replicas import Sends
from jopt.tree import count, size_bytes

PyTree = Any
LOCAL_STEP, WARM_UP_STEP = "local step", "warm-up step"
SYNC, RECEIVE = "sync", "receive"  # and the fragment


class Sent(NamedTuple):
    """One program of a run, and the bytes of the slow network in it, on one device.

    Attributes:
        program: `local step`, `warm-up step`, or `sync` or `receive` with the fragment.
        every_steps: how often it is done: once in so many steps; None for the warm-up,
            which ends.
        payload_hlo: bytes of the results of its collectives between replicas, read from
            the compiled program; None where it was not compiled.
        payload_model: the same by counting parameters.
        wire_model: bytes that a device sends on a ring.
        wire_measured: bytes that were seen on a link; None, since a run does not look.
    """

    program: str
    every_steps: int | None
    payload_hlo: float | None
    payload_model: float
    wire_model: float
    wire_measured: float | None = None


class Payload(NamedTuple):
    """What one exchange sends, by a model.

    Attributes:
        result: bytes of the results of the collectives on one device.
        wire: bytes that a device sends on a ring.
    """

    result: float
    wire: float


class Model(NamedTuple):
    """Payloads by counting parameters.

    Attributes:
        fragments: of the sync of each; the last one has the means of buffers as well.
        together: of a data-parallel step of the warm-up.
    """

    fragments: tuple[Payload, ...]
    together: Payload

    @property
    def round(self) -> Payload:
        """Of all fragments."""
        results, wires = zip(*self.fragments, strict=True)
        return Payload(sum(results), sum(wires))


def model(replicas: Replicas, params: PyTree, buffers: PyTree) -> Model:
    """What is sent, with 4 bytes to count the replicas that are sound.

    Where mesh axes inside a replica cut a parameter, a device sends its part.

    Args:
        params: shapes of one model, with shardings.
        buffers: shapes of what it carries along untrained.
    """
    settings, places = replicas.local.settings, _places(replicas)
    anchor = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), jnp.float32),
        params,
    )
    means = ("all-reduce", 4 * count(buffers))
    flags = ("all-reduce", 4 * settings.drop_nonfinite)
    fragments = settings.fragments_of(anchor)
    sends = [(*_exchanged(replicas, part), flags) for part in fragments.parts(anchor)]
    sends[-1] += (means,)
    together = (("all-reduce", size_bytes(anchor)), means)
    return Model(
        tuple(_payload(one, places) for one in sends), _payload(together, places)
    )


def _places(replicas: Replicas) -> int:
    """How many devices meet; simulated replicas are taken to have one each."""
    mesh = replicas.local.settings.places.mesh
    return replicas.local.num_replicas if mesh is None else mesh.shape["replica"]


def _exchanged(replicas: Replicas, fragment: PyTree) -> Sends:
    settings, number = replicas.local.settings, replicas.local.num_replicas
    if settings.shard_outer:
        whole = size_bytes(fragment)
        part = whole // _places(replicas)
        return (("reduce-scatter", part), ("all-gather", whole))
    return settings.exchange.sends(fragment, number, _places(replicas))


def _payload(sends: Sends, places: int) -> Payload:
    return Payload(sum(size for _, size in sends), wire_bytes(sends, places))


def sent(
    replicas: Replicas, programs: Mapping[str, Together], model: Model, mesh: Mesh
) -> list[Sent]:
    """A row for each program that the method has, but the one of the last step.

    That one sends what is left, once.

    Args:
        programs: that were compiled so far, by name.
    """
    rounds = replicas.local.settings.rounds
    every, nothing = rounds.effective_period, Payload(0.0, 0.0)
    parts = list(enumerate(model.fragments))
    rows: list[tuple[str, int | None, Payload]] = [(LOCAL_STEP, 1, nothing)]
    if rounds.delay:
        rows += [(f"{RECEIVE} {number}", every, nothing) for number, _ in parts]
    rows += [(f"{SYNC} {number}", every, part) for number, part in parts]
    if rounds.warmup:
        rows.append((WARM_UP_STEP, None, model.together))
    return [
        Sent(name, steps, _hlo(programs.get(name), mesh), *part)
        for name, steps, part in rows
    ]


def with_earlier(
    rows: Iterable[Sent], earlier: Iterable[Mapping[str, str]]
) -> list[Sent]:
    """`rows`, and where a program was not compiled what an earlier attempt counted.

    Only where the model has not changed, as it does with the mesh.

    Args:
        earlier: rows of the run's `communication.csv`.
    """
    counted = {
        (old["program"], float(old["payload_model"]), float(old["wire_model"])): old
        for old in earlier
        if old["payload_hlo"]
    }
    found = []
    for row in rows:
        old = counted.get((row.program, row.payload_model, row.wire_model))
        if row.payload_hlo is None and old is not None:
            row = row._replace(payload_hlo=float(old["payload_hlo"]))
        found.append(row)
    return found


def _hlo(function: Together | None, mesh: Mesh) -> float | None:
    """Payload of what was compiled of a function; None where nothing was."""
    if function is None or not function.programs:
        return None
    return sum(_payload_of(program, mesh) for program in function.programs)


def _payload_of(program: jax.stages.Compiled, mesh: Mesh) -> float:
    """Payload in a program; branches, as of pairings, are taken as often each."""
    crossing = [c for c in collectives(program, mesh) if c.crosses]
    branches: dict[str, int] = {}
    for name, branch in (place for c in crossing for place in c.depends):
        branches[name] = max(branches.get(name, 0), (branch or 0) + 1)
    shares = {name: [1 / number] * number for name, number in branches.items()}
    return cross_replica_bytes(program, mesh, frequencies=shares)
