"""What a compiled program sends between devices."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import jax

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
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_LOOP = re.compile(r"\b(?:body|condition)=%?([\w.\-]+)")
_CALL = re.compile(r"(?:to_apply|calls|body|condition|branch_computations)=\{?([^,}]+)")


class Collective(NamedTuple):
    """One collective operation of a program.

    Attributes:
        kind: `all-gather`, `all-reduce`, `all-to-all` and so on.
        dtype: of what it sends, in XLA's words: f32, bf16, s32 and so on.
        size: bytes of its result on one device.
        in_loop: whether it is in the body of a loop, and so is done many times.
    """

    kind: str
    dtype: str
    size: int
    in_loop: bool


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """The collectives of a compiled program, in the order of its text.

    What they cost is known before anything runs, and for any number of simulated
    devices: `jax.jit(f).lower(*args).compile()` is enough.

    >>> collectives(jax.jit(jax.numpy.sin).lower(1.0).compile())
    []
    """
    text = compiled.as_text()
    looped = _loops(text or "")
    found = []
    computation = ""
    for line in (text or "").splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[1]
        if match := _INSTRUCTION.search(line):
            arrays = _ARRAY.findall(match[1])
            if match[3] and len(arrays) > 1:
                arrays = arrays[len(arrays) // 2 :]  # operands come before results
            size = sum(_bytes(dtype, shape) for dtype, shape in arrays)
            found.append(
                Collective(match[2], arrays[0][0], size, computation in looped)
            )
    return found


def _bytes(dtype: str, shape: str) -> int:
    lengths = [int(length) for length in shape.split(",") if length]
    bits = re.search(r"\d+", dtype)
    width = int(bits[0]) if bits else 8  # pred is the only one without a number
    return math.prod(lengths) * max(width // 8, 1)


def _loops(text: str) -> set[str]:
    """Computations that a loop runs, directly or through others."""
    calls: dict[str, set[str]] = {}
    roots: set[str] = set()
    computation = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[1]
        roots.update(_LOOP.findall(line))
        for names in _CALL.findall(line):
            callees = {name.strip(" %") for name in names.split(",")}
            calls.setdefault(computation, set()).update(callees)
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += calls.get(name, ())
    return found
