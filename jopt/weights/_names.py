"""From the names of a torch model to those of a Flax one, by a user's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from jopt.errors import ConfigError, did_you_mean
from jopt.weights._layout import STATE, Piece, kept, outline
from jopt.weights._torch_layout import KINDS, WITH_HEADS, Conversion
from jopt.weights._weights import Leaf


class Rule(NamedTuple):
    r"""Which modules are of which kind, and what they are called in Flax.

    Attributes:
        match: regular expression that matches the whole name of a module; of kind
            `raw`, of a tensor.
        kind: linear, conv, layer_norm, batch_norm, embedding, attention (one
            `nn.MultiheadAttention`), to_heads and from_heads (linear layers that are
            the projections of an attention layer), raw (as it is).
        name: path in Flax, with `\1` for the first group of `match`, and so on.
        heads: of attention, to_heads and from_heads.
    """

    match: str
    kind: str
    name: str
    heads: int = 0


def rules_from(tables: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    r"""Rules from dicts, as a config or a JSON file has them.

    Fails: `ConfigError` that lists everything that is wrong with them.

    >>> rules_from([{"match": r"fc(\d)", "kind": "linear", "name": r"dense_\1"}])
    (Rule(match='fc(\\d)', kind='linear', name='dense_\\1', heads=0),)
    """
    faults: list[str] = []
    rules = []
    for number, table in enumerate(tables):
        found = [f"names[{number}]{fault}" for fault in _faults(table)]
        faults += found
        if not found:
            rules.append(Rule(**table))
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(rules)


def _faults(table: Any) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield f" is {table!r}; a dict with {', '.join(Rule._fields)} is expected"
        return
    for key in table.keys() - set(Rule._fields):
        yield f".{key} is unknown{did_you_mean(key, Rule._fields)}"
    for key in ("match", "kind", "name"):
        if not isinstance(table.get(key), str):
            yield f".{key} is {table.get(key)!r}; text is expected"
            return
    if table["kind"] not in KINDS:
        hint = did_you_mean(table["kind"], KINDS)
        yield f".kind is {table['kind']!r}; known: {', '.join(KINDS)}{hint}"
    elif (table["kind"] in WITH_HEADS) != (table.get("heads", 0) > 0):
        some = "needs" if table["kind"] in WITH_HEADS else "has no"
        yield f" of kind {table['kind']} {some} heads"
    try:
        groups = re.compile(table["match"]).groups
    except re.error as error:
        yield f".match {table['match']!r} is no regular expression: {error}"
        return
    wanted = [int(digit) for digit in re.findall(r"\\(\d)", table["name"])]
    if wanted and max(wanted) > groups:
        yield f".name asks for group {max(wanted)}, and match has {groups}"


def torch_layout(
    leaves: Mapping[str, Leaf], rules: Sequence[Rule]
) -> tuple[Piece, ...]:
    r"""The pieces of a torch file: for each tensor the leaves that it becomes.

    The first rule that matches a tensor decides. `num_batches_tracked` becomes no leaf.

    Fails: `ConfigError` that lists the tensors without a rule, the rules without a
    tensor, and the tensors that do not divide into heads.

    >>> import numpy as np
    >>> fc = {"fc1.weight": Leaf((8, 3), np.dtype("float32"))}
    >>> piece, = torch_layout(fc, [Rule(r"fc(\d)", "linear", r"dense_\1")])
    >>> piece.leaves, piece.split(np.zeros((8, 3)))[0].shape
    (('dense_1/kernel',), (3, 8))
    """
    pieces: list[Piece] = []
    without: list[str] = []
    used: set[Rule] = set()
    for tensor, leaf in leaves.items():
        found = _first(tensor, rules)
        if found is None:
            without.append(f"{tensor} {leaf.shape}")
            continue
        rule, path, conversion = found
        used.add(rule)
        pieces.append(_piece(tensor, leaf, rule, path, conversion))
    _complain(without, [rule for rule in rules if rule not in used])
    return tuple(pieces)


def _first(
    tensor: str, rules: Sequence[Rule]
) -> tuple[Rule, str, Conversion | None] | None:
    """The rule of a tensor, the Flax path of its module, and how it is converted."""
    for rule in rules:
        for suffix, conversion in KINDS[rule.kind].items():
            module = tensor.removesuffix(f".{suffix}") if suffix else tensor
            if suffix and module == tensor:
                continue
            if match := re.fullmatch(rule.match, module):
                return rule, match.expand(rule.name), conversion
    return None


def _piece(
    tensor: str, leaf: Leaf, rule: Rule, path: str, conversion: Conversion | None
) -> Piece:
    if conversion is None:
        return kept(tensor)
    top = STATE if conversion.is_state else ""
    piece = Piece(
        tensor,
        tuple(f"{top}{path}/{name}".rstrip("/") for name in conversion.leaves),
        partial(_with_heads, conversion.split, rule.heads),
        partial(_with_heads, conversion.join, rule.heads),
        (conversion.spec(len(leaf.shape)),) * len(conversion.leaves),
    )
    _check_fit(piece, leaf, rule, conversion)
    return piece


def _check_fit(piece: Piece, leaf: Leaf, rule: Rule, conversion: Conversion) -> None:
    try:
        if len(leaf.shape) not in conversion.axes:
            raise ValueError
        piece.split(outline(leaf))
    except ValueError:
        heads = f" with {rule.heads} heads" if rule.heads else ""
        raise ConfigError(
            f"{piece.source} {leaf.shape} does not fit the rule {rule.match!r} of kind "
            f"{rule.kind}{heads}"
        ) from None


def _with_heads(convert: Any, heads: int, value: Any) -> Any:
    return convert(value, heads)


def _complain(without: Sequence[str], idle: Sequence[Rule]) -> None:
    faults = []
    if without:
        more = f" and {len(without) - 8} more" if len(without) > 8 else ""
        faults.append(
            f"{len(without)} tensors match no rule of names: "
            f"{', '.join(without[:8])}{more}; add a rule, or one of kind raw"
        )
    if idle:
        faults.append(
            "these rules of names match no tensor: "
            + ", ".join(f"{rule.match!r} ({rule.kind})" for rule in idle)
        )
    if faults:
        raise ConfigError("\n".join(faults))
