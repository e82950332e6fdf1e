"""Named rules: which parameter goes to which optimizer, and what is wrong with that."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from jopt.errors import ConfigError, ShapeError, did_you_mean, nearest
from jopt.matrix import MatrixSpec
from jopt.optimizers._catalog import FROM_MODEL, Entry, arguments, find_entry
from jopt.optimizers._config import entries, read
from jopt.optimizers._labels import fallback_word
from jopt.transforms import Declared, find_spec

RULE_KEYS = frozenset({"match", "name", "allow_any_path", "per_head"})


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule, read and checked.

    Attributes:
        name: key of the rule in `config.optim.rules`.
        match: searched for in a parameter's path (`re.search`).
        optimizer: catalog name, or `package.module:function`.
        entry: what it stands for.
        arguments: keyword arguments of its constructor, learning rate included.
        allow_any_path: lets a spectral rule take embeddings, heads, norms and biases.
        per_head: each head is a matrix of its own; True where the view has an axis of
            heads, else their number for each block of a fused output. None: no.
    """

    name: str
    match: re.Pattern[str]
    optimizer: str
    entry: Entry
    arguments: dict[str, Any]
    allow_any_path: bool
    per_head: bool | int | tuple[int, ...] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The extra args that its optimizer asks for."""
        return self.entry.needs_of(self.arguments)


def read_rules(optim: Any, faults: list[str]) -> list[Rule]:
    """The rules of `config.optim` in their order; what is wrong goes to `faults`.

    >>> faults = []
    >>> rules = {"all": {"match": ".*", "name": "adamw", "learning_rate": 0.1}}
    >>> [rule.name for rule in read_rules({"order": ("all",), "rules": rules}, faults)]
    ['all']
    """
    tables = entries(read(optim, "rules"))
    order = tuple(read(optim, "order", ()))
    for name in order:
        if name not in tables:
            faults.append(
                f"optim.order names {name!r}, which is not in optim.rules"
                + did_you_mean(name, tables)
            )
    for name in tables:
        if name not in order:
            faults.append(
                f"optim.rules.{name} is not in optim.order {order}; add it there or "
                "remove the rule"
            )
    if len(set(order)) != len(order):
        faults.append(f"optim.order {order} names a rule twice")
    known = dict.fromkeys(name for name in order if name in tables)
    rules = [_read_rule(name, entries(tables[name]), faults) for name in known]
    return [rule for rule in rules if rule is not None]


def _read_rule(name: str, table: dict[str, Any], faults: list[str]) -> Rule | None:
    where = f"optim.rules.{name}"
    missing = [key for key in ("match", "name") if key not in table]
    if missing:
        faults.append(f"{where} has no {' and no '.join(missing)}")
        return None
    try:
        match = re.compile(table["match"])
    except (re.error, TypeError) as error:
        faults.append(f"{where}.match {table['match']!r} is no regex: {error}")
        return None
    try:
        entry = find_entry(table["name"])
    except ConfigError as error:
        faults.append(f"{where}.name: {error}")
        return None
    if entry.whole_tree:
        faults.append(
            f"{where}.name is {table['name']!r}, whose step depends on all parameters "
            "together, so a rule cannot give it some; name it in "
            "optim.whole_tree.optimizer.name and leave optim.rules empty"
        )
        return None
    keywords = {key: value for key, value in table.items() if key not in RULE_KEYS}
    faults.extend(argument_faults(where, table["name"], entry, keywords))
    per_head = table.get("per_head") or None
    counts = per_head if isinstance(per_head, tuple | list) else (per_head or 1,)
    if not all(isinstance(count, int) and count >= 1 for count in counts):
        faults.append(
            f"{where}.per_head: expected True, a number of heads or one for each "
            f"block, found {per_head!r}"
        )
        return None
    if per_head is not None and not entry.spectral:
        faults.append(f"{where}.per_head: {table['name']} does not see matrices")
    return Rule(
        name,
        match,
        table["name"],
        entry,
        keywords,
        bool(table.get("allow_any_path")),
        per_head,
    )


def argument_faults(
    where: str, optimizer: str, entry: Entry, keywords: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the arguments that a table gives to an optimizer.

    >>> argument_faults("optim.rules.all", "lion", find_entry("lion"), {})
    ['optim.rules.all has no learning_rate']
    """
    names, takes_others = arguments(entry)
    names = names - FROM_MODEL
    faults = []
    if "learning_rate" in names and "learning_rate" not in keywords:
        faults.append(f"{where} has no learning_rate")
    for key in keywords:
        if key not in names and not takes_others:
            guess = nearest(key, names | RULE_KEYS)
            faults.append(
                f"unknown key {where}.{key}"
                + (f"; did you mean {where}.{guess}?" if guess else "")
                + f" {optimizer} takes {', '.join(sorted(names))}"
            )
    return faults


def assign(
    rules: list[Rule],
    leaves: Mapping[str, jax.Array],
    declared: Declared,
    faults: list[str],
    *,
    complete: bool = True,
) -> dict[str, Rule]:
    """The rule of every path: the first in order whose regex is found in it.

    A parameter without a rule, a rule without a parameter, and a parameter that a
    spectral rule must not have go to `faults`. Unless `rules` is `complete`, a
    parameter without one says nothing and is passed over.

    >>> rule = Rule("all", re.compile("."), "lion", find_entry("lion"), {}, False)
    >>> leaves = {"w": jax.ShapeDtypeStruct((2, 2), "float32")}
    >>> assign([rule], leaves, {}, faults=[])["w"].name
    'all'
    """
    assigned: dict[str, Rule] = {}
    for path in leaves:
        found = next((rule for rule in rules if rule.match.search(path)), None)
        if found is not None:
            assigned[path] = found
    lost = [f"{path} {leaves[path].shape}" for path in leaves if path not in assigned]
    if lost and complete:
        faults.append(
            f"no optimizer rule matches {len(lost)} of {len(leaves)} parameters: "
            f"{', '.join(lost)}\n  add a rule to optim.rules, or end optim.order with "
            "a catch-all (match='.*')"
        )
    for rule in rules:
        taken = [path for path, owner in assigned.items() if owner.name == rule.name]
        if not taken:
            faults.append(_idle(rule, rules, leaves))
        if rule.entry.spectral:
            faults.extend(_spectral_faults(rule, taken, leaves, declared))
    return assigned


def _idle(rule: Rule, rules: list[Rule], leaves: Mapping[str, jax.Array]) -> str:
    where = f"optim.rules.{rule.name} (match={rule.match.pattern!r})"
    if not any(rule.match.search(path) for path in leaves):
        shown = ", ".join(f"{path} {leaf.shape}" for path, leaf in leaves.items())
        return (
            f"{where} matches no parameter of: {shown}\n  correct the regex or remove "
            "the rule"
        )
    earlier = [other.name for other in rules[: rules.index(rule)]]
    return (
        f"{where} matches only parameters that the earlier rules {', '.join(earlier)} "
        "take\n  move it forward in optim.order or remove it"
    )


def split_heads(
    assigned: Mapping[str, Rule],
    leaves: Mapping[str, jax.Array],
    declared: Declared,
    faults: list[str],
) -> dict[str, MatrixSpec | None]:
    """The declared views, per head where the rule of a parameter says so.

    >>> rule = Rule("q", re.compile("."), "muon", find_entry("muon"), {}, False, True)
    >>> leaves = {"q": jax.ShapeDtypeStruct((8, 2, 4), "float32")}
    >>> joint = {"q": MatrixSpec((0,), (1, 2))}
    >>> split_heads({"q": rule}, leaves, joint, faults=[])["q"].blocks((8, 2, 4))
    ((2, 8, 4),)
    """
    views = dict(declared)
    for path, rule in assigned.items():
        spec = find_spec(path, leaves[path].shape, declared)
        if rule.per_head is None or spec is None:
            continue
        try:
            heads = None if rule.per_head is True else rule.per_head
            views[path] = view = spec.per_head(heads)
            view.blocks(leaves[path].shape)
        except ShapeError as error:
            faults.append(
                f"optim.rules.{rule.name}.per_head for {path} {leaves[path].shape}: "
                f"{error}"
            )
    return views


def _spectral_faults(
    rule: Rule,
    paths: list[str],
    leaves: Mapping[str, jax.Array],
    declared: Declared,
) -> list[str]:
    faults = []
    for path in paths:
        leaf = leaves[path]
        where = f"optim.rules.{rule.name} ({rule.optimizer}) takes {path} {leaf.shape}"
        word = fallback_word(path)
        if word is not None and not rule.allow_any_path:
            faults.append(
                f"{where}, whose path says {word!r}: not a hidden matrix\n  put a rule "
                f"for it before {rule.name!r} in optim.order, or set "
                "allow_any_path=True"
            )
        spec = find_spec(path, leaf.shape, declared)
        if spec is None:
            faults.append(
                f"{where}, which has no matrix view\n  declare it in matrix_specs, or "
                f"put a rule for it before {rule.name!r} in optim.order"
            )
            continue
        try:
            sides = [min(m, n) for _, m, n in spec.blocks(leaf.shape)]
        except ShapeError as error:
            faults.append(f"{where}: {error}")
            continue
        if min(sides) == 1:
            faults.append(
                f"{where}, a matrix with a side of 1\n  put a rule for it before "
                f"{rule.name!r} in optim.order"
            )
    return faults
