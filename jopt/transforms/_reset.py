"""An optimizer whose state starts anew in the middle of a run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.transforms._cautious import CautiousState
from jopt.transforms._hyperball import HyperballState
from jopt.transforms._momentum import MomentumState
from jopt.transforms._monitor import MonitorState
from jopt.transforms._skip import SkipState
from jopt.tree import PyTree

# Fields that belong to a schedule, or to what watches a run, and not to what was seen
# of gradients.
_KEPT: dict[type, tuple[str, ...]] = {
    optax.InjectStatefulHyperparamsState: (
        "count",
        "hyperparams",
        "hyperparams_states",
    ),
    CautiousState: ("step",),
    HyperballState: ("step",),
    MomentumState: ("step",),
    MonitorState: ("seen", "metrics"),
    SkipState: ("skipped", "in_a_row"),
}


def reset_state(
    tx: optax.GradientTransformation,
    state: PyTree,
    params: PyTree,
    reset: jax.typing.ArrayLike,
    *,
    reset_counters: bool = False,
) -> PyTree:
    """The state of the same optimizer as it would start now, where `reset` holds.

    Moments and averages are those of `tx.init(params)`; parameters are not touched, and
    schedules go on: the counters of learning rates, decays and momenta that follow a
    schedule stay, those of Optax and of jopt, also under `optax.inject_hyperparams`. So
    do the counts of skipped steps and what `monitor` knows. Where `reset` is false the
    state stays as it is.

    Args:
        tx: whose state this is.
        reset: bool scalar, may be traced.
        reset_counters: schedules begin anew, too. Static.

    Cost: with a traced `reset`, one `lax.cond`.

    >>> tx = optax.sgd(0.1, momentum=0.9)
    >>> w = jnp.zeros(1)
    >>> _, state = tx.update(jnp.ones(1), tx.init(w), w)
    >>> reset_state(tx, state, w, True)[0].trace.tolist()
    [0.0]
    """
    fresh = jax.lax.cond(
        jnp.asarray(reset), lambda: _like(tx.init(params), state), lambda: state
    )
    return fresh if reset_counters else _with_schedules_of(state, fresh)


def _like(fresh: PyTree, state: PyTree) -> PyTree:
    """A first step may widen a moment, as a traced learning rate does."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, jnp.asarray(b).dtype), fresh, state)


def _with_schedules_of(old: PyTree, new: PyTree) -> PyTree:
    """`new` with the counters of `old`, wherever a schedule is in the tree."""

    def of_node(before: Any, after: Any) -> Any:
        fields = _fields(before)
        if not fields:
            return after
        kept = {name: getattr(before, name) for name in fields}
        rest = {
            name: _with_schedules_of(getattr(before, name), getattr(after, name))
            for name in before._fields
            if name not in fields
        }
        return type(before)(**kept, **rest)

    return jax.tree.map(of_node, old, new, is_leaf=lambda node: bool(_fields(node)))


def _fields(node: Any) -> tuple[str, ...]:
    """Those that are kept; `count` where a state holds nothing else, as Optax's do."""
    if getattr(node, "_fields", None) == ("count",):
        return ("count",)
    return _KEPT.get(type(node), ())
