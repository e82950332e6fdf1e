"""What each parameter gets, as rows and as a printed table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import optax

from jopt.matrix import MatrixSpec
from jopt.optimizers._catalog import default
from jopt.optimizers._rules import Rule
from jopt.optimizers._text import align, describe_blocks
from jopt.transforms import Declared, find_spec, shape_scale
from jopt.tree import PyTree, map_named, named_leaves, size_bytes

if TYPE_CHECKING:
    from jopt.optimizers._build import Optimizer


class Row(NamedTuple):
    """What one parameter gets.

    Attributes:
        path, shape, dtype: of the parameter.
        rule: name of the rule that takes it.
        optimizer: what the rule names.
        matrices: (batch, fan-in, fan-out) of each block of its matrix view; empty for
        an
            optimizer that does not see matrices.
        scale: factor on the update of each block; None where it depends on the values.
        state_bytes: optimizer state of this parameter alone.
        geometry: in which its steps are measured, see `Entry.geometry`.
        spec: its matrix view, per head where the rule says so; None without one.
        needs: extra args that the optimizer must be given.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    rule: str
    optimizer: str
    matrices: tuple[tuple[int, int, int], ...]
    scale: tuple[float | None, ...]
    state_bytes: int
    geometry: str
    spec: MatrixSpec | None
    needs: frozenset[str]


def make_table(
    params: PyTree,
    assigned: Mapping[str, Rule],
    transforms: Mapping[str, optax.GradientTransformation],
    declared: Declared,
) -> tuple[Row, ...]:
    """One row for each parameter; `init` is traced and not run, to measure the state.

    State that belongs to no parameter, such as a step counter, is in no row.
    """
    state_bytes: dict[str, int] = {}
    for name, tx in transforms.items():
        state_bytes |= _state_bytes(params, assigned, name, tx)
    rows = []
    for path, leaf in named_leaves(params).items():
        rule = assigned[path]
        spec = find_spec(path, leaf.shape, declared)
        blocks: tuple[tuple[int, int, int], ...] = ()
        scale: tuple[float | None, ...] = ()
        if rule.entry.spectral:
            assert spec is not None  # `assign` has refused such a parameter.
            blocks = spec.blocks(leaf.shape)
            mode = rule.arguments.get("scale", default(rule.entry, "scale"))
            if mode is not None:
                scale = tuple(shape_scale(mode, m, n) for _, m, n in blocks)
        rows.append(
            Row(
                path,
                tuple(leaf.shape),
                str(leaf.dtype),
                rule.name,
                rule.optimizer,
                blocks,
                scale,
                state_bytes[path],
                rule.entry.geometry,
                spec,
                rule.needs,
            )
        )
    return tuple(rows)


def _state_bytes(
    params: PyTree,
    assigned: Mapping[str, Rule],
    name: str,
    tx: optax.GradientTransformation,
) -> dict[str, int]:
    mine = {path for path, rule in assigned.items() if rule.name == name}
    masked = map_named(
        lambda path, leaf: leaf if path in mine else optax.MaskedNode(), params
    )
    totals = dict.fromkeys(mine, 0)
    # The longest path is tried first, so that `a/kernel` is not taken for `kernel`.
    by_length = sorted(mine, key=len, reverse=True)
    for state_path, leaf in named_leaves(jax.eval_shape(tx.init, masked)).items():
        owner = next((p for p in by_length if f"/{p}/" in f"/{state_path}/"), None)
        if owner is not None:
            totals[owner] += size_bytes(leaf)
    return totals


def explain(optimizer: Optimizer) -> str:
    """The table of an optimizer as aligned text, with totals for each rule.

    >>> import jax.numpy as jnp
    >>> from jopt.optimizers import build
    >>> rule = {"match": ".*", "name": "lion", "learning_rate": 1e-4}
    >>> config = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    >>> print(explain(build(config, {"w": jnp.zeros((2, 3))})))
    parameter  shape   dtype    rule  optimizer  matrices  scale  state bytes
    w          (2, 3)  float32  all   lion                                 24
    <BLANKLINE>
    rule   parameters  elements  state bytes
    all             1         6           24
    total           1         6           24
    """
    header = ("parameter", "shape", "dtype", "rule", "optimizer", "matrices", "scale")
    lines = [(*header, "state bytes")]
    for row in optimizer.table:
        factors = [
            "by value" if factor is None else f"{factor:.4g}" for factor in row.scale
        ]
        lines.append(
            (
                row.path,
                str(row.shape),
                row.dtype,
                row.rule,
                row.optimizer,
                describe_blocks(row.matrices),
                " + ".join(factors),
                f"{row.state_bytes:,}",
            )
        )
    parts = [align(lines, frozenset({7})), _totals(optimizer.table)]
    if optimizer.needs:
        parts.append(f"needs extra args: {', '.join(sorted(optimizer.needs))}")
    return "\n\n".join(parts)


def _totals(table: tuple[Row, ...]) -> str:
    groups = {name: [r for r in table if r.rule == name] for name in _rules(table)}
    lines = [("rule", "parameters", "elements", "state bytes")]
    for name, rows in [*groups.items(), ("total", list(table))]:
        elements = sum(math.prod(row.shape) for row in rows)
        state = sum(row.state_bytes for row in rows)
        lines.append((name, f"{len(rows):,}", f"{elements:,}", f"{state:,}"))
    return align(lines, frozenset({1, 2, 3}))


def _rules(table: tuple[Row, ...]) -> list[str]:
    return list(dict.fromkeys(row.rule for row in table))
