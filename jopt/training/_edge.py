"""Where the optimizer of a run becomes unstable, rule by rule.

Rules divide the parameters, and each has a threshold of its own. With D^2 = P^-1 /
threshold on the parameters of a rule (P = 1 but for Adam), the ratio is the largest
eigenvalue of D H D. For one rule that is lambda_max(P^-1 H) / threshold; it stays the
exact edge where all rules have one kind of momentum, whatever their learning rates, and
is a sum of approximations where they have not ("derived").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jopt.landscape.curvature import adam_preconditioner, stability_threshold
from jopt.optimizers import Row
from jopt.tree import PyTree, map_named, named_leaves

_LINEAR = ("sgd", "optax:sgd")
_ADAM = ("adamw", "optax:adamw", "optax:adam")


class Edge(NamedTuple):
    """The threshold of a rule.

    Attributes:
        kind: a key of `jopt.landscape.curvature.THRESHOLDS`.
        numbers: `momentum`, `rho`; `b2` and `eps` of Adam.
        paths: of its parameters.
    """

    kind: str
    numbers: Mapping[str, float]
    paths: tuple[str, ...]


def edges(
    config: ConfigDict, table: Sequence[Row]
) -> tuple[dict[str, Edge], dict[str, str]]:
    """The rules whose threshold is known, and why it is not known of the others.

    Weight decay, clipping and the noise of small batches are left out of account.
    """
    known: dict[str, Edge] = {}
    unknown: dict[str, str] = {}
    for name in config.optim.order:
        rule = config.optim.rules[name]
        found = _edge(rule, config.oracle)
        if isinstance(found, str):
            unknown[name] = found
        else:
            kind, numbers = found
            paths = tuple(row.path for row in table if row.rule == name)
            known[name] = Edge(kind, numbers, paths)
    return known, unknown


def _edge(rule: Any, oracle: Any) -> tuple[str, dict[str, float]] | str:
    momentum = rule.get("momentum") or 0.0
    scheduled = [key for key, value in rule.items() if isinstance(value, ConfigDict)]
    if scheduled:
        return f"{scheduled[0]} of {rule.name} is a schedule"
    if oracle.name == "sam":
        plain = rule.name in _LINEAR and not momentum
        if plain and oracle.get("norm", "l2") == "l2":
            return "sam", {"rho": oracle.rho}
        return "with oracle.name = 'sam' it is known for plain sgd and the l2 ball only"
    if oracle.name != "value_and_grad":
        return f"none is known with oracle.name = {oracle.name!r}"
    if rule.name in _LINEAR:
        if not momentum:
            return "gd", {}
        kind = "nesterov" if rule.get("nesterov") else "heavy_ball"
        return kind, {"momentum": momentum}
    if rule.name in _ADAM and not rule.get("nesterov"):
        numbers = {"b2": rule.get("b2", 0.999), "eps": rule.get("eps", 1e-8)}
        return "adam", {"momentum": rule.get("b1", 0.9), **numbers}
    return f"none is known for {rule.name} in a run"


def is_plain(known: Mapping[str, Edge], table: Sequence[Row]) -> bool:
    """Whether the ratio is lambda_max over one threshold."""
    alone = len(known) == 1 and all(row.rule in known for row in table)
    return alone and all(edge.kind != "adam" for edge in known.values())


def thresholds(
    known: Mapping[str, Edge], rates: Mapping[str, Any], grad_norm: Any
) -> dict[str, jax.Array]:
    """The threshold of each rule at these learning rates.

    Args:
        rates: rule -> learning rate.
        grad_norm: of the loss, for SAM.
    """
    found = {}
    for name, edge in known.items():
        numbers = {k: x for k, x in edge.numbers.items() if k in ("momentum", "rho")}
        if edge.kind == "sam":
            numbers["grad_norm"] = grad_norm
        found[name] = stability_threshold(edge.kind, rates[name], **numbers)
    return found


def edge_scale(
    known: Mapping[str, Edge],
    limits: Mapping[str, jax.Array],
    params: PyTree,
    opt_state: PyTree,
) -> PyTree:
    """D, a tree like the parameters: zero where no threshold is known."""
    scale: dict[str, jax.Array] = {}
    for name, edge in known.items():
        shrunk = jax.lax.rsqrt(limits[name])
        own = named_leaves(params)
        squares = _adam_squares(edge, opt_state, name) if edge.kind == "adam" else {}
        for path in edge.paths:
            root = jax.lax.rsqrt(squares[path]) if squares else jnp.ones_like(own[path])
            scale[path] = shrunk * root
    return map_named(lambda path, w: scale.get(path, jnp.zeros_like(w)), params)


def _adam_squares(edge: Edge, opt_state: PyTree, rule: str) -> dict[str, jax.Array]:
    """path -> P of a rule's parameters."""
    inside = optax.tree.get(opt_state, "inner_states")[rule]

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    (state,) = filter(is_adam, jax.tree.leaves(inside, is_leaf=is_adam))
    numbers = edge.numbers
    found = adam_preconditioner(
        state.nu,
        state.count,
        b1=numbers["momentum"],
        b2=numbers["b2"],
        eps=numbers["eps"],
    )
    return named_leaves(found)
