"""Where parameters lie, by their paths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt.errors import ConfigError, did_you_mean
from jopt.tree import named_leaves

PyTree = Any
KEYS = ("match", "axes")


class ShardingRule(NamedTuple):
    """Parameters by path, and the mesh axis that splits each of their axes.

    Attributes:
        name: of the rule, for messages.
        match: searched for in a parameter's path (`re.search`).
        axes: for each axis of the parameter, from the first, the mesh axis or axes that
            split it, or an empty string for none; what is left out is not split.
    """

    name: str
    match: re.Pattern[str]
    axes: tuple[str | tuple[str, ...], ...]


def sharding_rules(
    rules: Mapping[str, Mapping[str, Any]],
) -> tuple[ShardingRule, ...]:
    """Reads `mesh.rules`: named tables with `match` and `axes`, in order.

    Fails: `ConfigError` that lists all faults.

    >>> sharding_rules({"embed": {"match": "embed", "axes": ("", "fsdp")}})[0].axes
    ('', 'fsdp')
    """
    faults, found = [], []
    for name, table in rules.items():
        where = f"mesh.rules.{name}"
        wrong = [
            f"{where}.{key} is unknown{did_you_mean(key, KEYS)}"
            for key in table
            if key not in KEYS
        ]
        wrong += [f"{where}.{key} is missing" for key in KEYS if key not in table]
        faults += wrong
        if wrong:
            continue
        try:
            match = re.compile(table["match"])
        except (re.error, TypeError) as error:
            faults.append(f"{where}.match {table['match']!r} is no regex: {error}")
            continue
        axes = table["axes"]
        if isinstance(axes, str) or not isinstance(axes, Sequence):
            faults.append(f"{where}.axes is {axes!r}; a tuple of mesh axes is expected")
            continue
        split = tuple(a if isinstance(a, str) else tuple(a) for a in axes)
        found.append(ShardingRule(name, match, split))
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(found)


def by_rules(
    params: PyTree, mesh: Mesh, rules: Sequence[ShardingRule]
) -> dict[str, NamedSharding]:
    """The sharding of each parameter that a rule matches; the first one decides.

    Fails: `ConfigError` for a rule that decides about no parameter, an axis that the
    mesh or the parameter has not, and sizes that do not divide.
    """
    leaves = {path: tuple(leaf.shape) for path, leaf in named_leaves(params).items()}
    found: dict[str, NamedSharding] = {}
    faults: list[str] = []
    for rule in rules:
        mine = [p for p in leaves if p not in found and rule.match.search(p)]
        if not mine:
            shown = ", ".join(list(leaves)[:4])
            faults.append(
                f"mesh.rules.{rule.name} (match={rule.match.pattern!r}) decides about "
                f"no parameter of: {shown}, ...; correct it or remove the rule"
            )
        for path in mine:
            wrong = _faults(rule, path, leaves[path], mesh)
            if wrong:
                faults += wrong
                break  # the others of this rule are likely to have the same
            names = (axis or None for axis in rule.axes)
            found[path] = NamedSharding(mesh, PartitionSpec(*names))
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def _faults(
    rule: ShardingRule, path: str, shape: tuple[int, ...], mesh: Mesh
) -> list[str]:
    where = f"mesh.rules.{rule.name}: {path} {shape}"
    if len(rule.axes) > len(shape):
        return [f"{where} has {len(shape)} axes, the rule {len(rule.axes)}"]
    faults = []
    used: list[str] = []
    for length, axis in zip(shape, rule.axes, strict=False):
        names = [axis] * bool(axis) if isinstance(axis, str) else list(axis)
        unknown = [name for name in names if name not in mesh.shape]
        if unknown or set(names) & set(used) or len(set(names)) < len(names):
            return [
                f"{where}: axes {rule.axes} are to be different ones of "
                f"{', '.join(mesh.axis_names)}"
            ]
        used += names
        size = math.prod(mesh.shape[name] for name in names)
        if length % size:
            faults.append(f"{where}: {size} devices of {names} do not divide {length}")
    if "replica" in used:
        faults.append(f"{where}: replicas hold whole copies; leave `replica` out")
    return faults
