"""What a compiled program sends between devices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jopt.errors import ConfigError
from jopt.parallel._call_graph import lines_of, places
from jopt.parallel._replica_groups import Groups, crosses, replica_groups

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# `%name = f32[8,4]{1,0} all-gather(...)`, or a tuple of arrays before the name.
_INSTRUCTION = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"\b(replica_count|num_partitions)=(\d+)")
_BRACKETS = {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}

Frequencies = Mapping[str, float | Sequence[float]]


class Collective(NamedTuple):
    """One collective operation of a program.

    Attributes:
        kind: `all-gather`, `all-reduce`, `all-to-all` and so on.
        dtype: of what it sends, in XLA's words: f32, bf16, s32 and so on.
        size: bytes of its result on one device, each time it is done.
        in_loop: whether it is in the body of a loop, and so is done many times.
        groups: the devices that take part together, as places in the mesh counted row
            by row; of a permutation its (source, target) pairs.
        crosses: whether a group spans the axis asked for; None without a mesh.
        times: how often it is done, by the trip counts of its loops that XLA knows.
        depends: what only a run can say: (conditional, branch number) and (loop, None)
            of a loop without a known trip count, from outside in.
    """

    kind: str
    dtype: str
    size: int
    in_loop: bool
    groups: Groups = ()
    crosses: bool | None = None
    times: int = 1
    depends: tuple[tuple[str, int | None], ...] = ()


def collectives(
    compiled: jax.stages.Compiled | str, mesh: Mesh | None = None, axis: str = "replica"
) -> list[Collective]:
    """The collectives of a compiled program, in the order of its text.

    What they cost is known before anything runs, and for any number of simulated
    devices: `jax.jit(f).lower(*args).compile()` is enough. The `-done` half of an
    asynchronous one is not counted again.

    Args:
        compiled: a program, or its `as_text()`.
        mesh: that it was compiled for; tells which collectives cross `axis`.
        axis: of the mesh.

    Fails: `ConfigError` for replica groups in a spelling that is not known, and for a
    mesh of fewer devices than the program has.

    >>> collectives(jax.jit(jax.numpy.sin).lower(1.0).compile())
    []
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text() or ""
    head = dict(_HEADER.findall(text.split("\n", 1)[0]))
    replicas, partitions = (
        int(head.get(name, 1)) for name in ("replica_count", "num_partitions")
    )
    where = places(text)
    found = []
    for computation, line in lines_of(text):
        match = _INSTRUCTION.search(line)
        if match is None:
            continue
        result = _started(match[2], match[1]) if match[3] else match[1]
        arrays = _ARRAY.findall(result)
        groups = replica_groups(line, replicas, partitions)
        size = sum(_bytes(dtype, shape) for dtype, shape in arrays)
        crossing = None if mesh is None else crosses(groups, mesh, axis)
        for place in where[computation]:
            times, in_loop, depends = place
            sent = match[2], arrays[0][0], size, in_loop
            found.append(Collective(*sent, groups, crossing, times, depends))
    return found


def cross_replica_bytes(
    compiled: jax.stages.Compiled | str,
    mesh: Mesh,
    axis: str = "replica",
    *,
    frequencies: Frequencies | Sequence[float] | None = None,
) -> float:
    """Bytes of the results of all collectives that cross an axis, on one device.

    Each counts as often as its loops repeat it. This is the payload: what goes over the
    wire of a ring is `ring_bytes` of it. Not an estimate: it is read from the program.

    Args:
        compiled: a program, or its `as_text()`.
        mesh: that it was compiled for.
        axis: of the slow network.
        frequencies: what the program cannot say, by the name of the instruction: the
            share of each branch of a conditional, in order (False first), and the trip
            count of a loop that XLA does not know. A plain sequence is about the only
            conditional that matters.

    Fails: `ConfigError` where the answer depends on a branch or loop that
    `frequencies` does not name.

    >>> mesh = jax.make_mesh((1,), ("replica",))
    >>> cross_replica_bytes(jax.jit(jax.numpy.sin).lower(1.0).compile(), mesh)
    0
    """
    found = [c for c in collectives(compiled, mesh, axis) if c.crosses]
    unknown = {name for c in found for name, _ in c.depends}
    if frequencies is None:
        frequencies = {}
    elif not isinstance(frequencies, Mapping):
        if len(unknown) > 1:
            raise ConfigError(
                f"frequencies are one sequence, but {sorted(unknown)} matter; pass a "
                "dict by name"
            )
        frequencies = dict.fromkeys(unknown, frequencies)
    missing = sorted(unknown - set(frequencies))
    if missing:
        raise ConfigError(
            f"bytes depend on {', '.join(missing)}, which only a run can say; pass "
            "frequencies={name: (share of branch 0, share of branch 1)} for a "
            "conditional, and a trip count for a loop"
        )
    return sum(c.size * c.times * _share(c, frequencies) for c in found)


def _share(collective: Collective, frequencies: Frequencies) -> float:
    """How often what a collective depends on lets it be done."""
    share: float = 1
    for name, branch in collective.depends:
        given = frequencies[name]
        if branch is None:
            if isinstance(given, Sequence):
                raise ConfigError(f"{name} is a loop; its frequency is a trip count")
            share *= given
        else:
            if not isinstance(given, Sequence) or branch >= len(given):
                raise ConfigError(
                    f"{name} is a conditional; a share for each branch is expected, "
                    f"found {given!r}"
                )
            share *= given[branch]
    return share


def _started(kind: str, shape: str) -> str:
    """Of the shape of what starts an operation, the part that is its result.

    Operands are given back before it, one array or a tuple of several, and counters may
    follow it. Only an all-reduce has the bare shape of its results.
    """
    parts = _parts(shape)
    bare = kind == "all-reduce" and not parts[0].startswith("(")
    return shape if bare or len(parts) == 1 else parts[1]


def _parts(shape: str) -> list[str]:
    """`((a, b), c)` as `(a, b)` and `c`; one part for an array."""
    if not shape.startswith("("):
        return [shape]
    parts, depth = [""], 0
    for letter in shape[1:-1]:
        depth += _BRACKETS.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _bytes(dtype: str, shape: str) -> int:
    lengths = [int(length) for length in shape.split(",") if length]
    bits = re.search(r"\d+", dtype)
    width = int(bits[0]) if bits else 8  # pred is the only one without a number
    return math.prod(lengths) * max(width // 8, 1)
