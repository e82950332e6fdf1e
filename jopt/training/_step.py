"""One training step: oracle, optimizer update, apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.optimizers import Optimizer
from jopt.training._oracles import Gradients, Oracle
from jopt.training._state import TrainState
from jopt.transforms import (
    GEOMETRY,
    TABLES,
    MonitorState,
    SkipState,
    SwitchState,
    layer_metrics,
    merge_geometry,
    reset_state,
    select,
    unmonitored,
)
from jopt.tree import global_norm, named_leaves, path_string

PyTree = Any
Metrics = dict[str, jax.Array]


def make_step(
    oracle: Oracle,
    optimizer: Optimizer,
    learning_rate_factor: Callable[[PyTree], jax.Array] | None = None,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """A pure function `(state, batch) -> (state, metrics)`, not yet jitted.

    The batch holds the whole accumulation window. Metrics are float32: the objective's,
    `grad_norm`, `update_norm`, `param_norm`, and whatever transforms report through a
    `metrics` field of their state. `written` makes numbers of them.
    `learning_rate_factor`, of the oracle's state before the step, is for an optimizer
    that needs it. Where the oracle says so, the state of the same optimizer starts anew
    before the update, see `jopt.transforms.reset_state`.
    """

    def step(state: TrainState, batch: dict[str, jax.Array]):
        key = step_key(state)
        due = {}
        if "activation_grams" in optimizer.needs:
            due["grams_due"] = grams_due(state.opt_state)
        gradients, oracle_state = oracle.apply(
            state.oracle_state, state.params, state.model_state, batch, key, **due
        )
        factor: Metrics = {}
        if learning_rate_factor is not None:
            factor["learning_rate_factor"] = learning_rate_factor(state.oracle_state)
        opt_state = state.opt_state
        if oracle.resets_optimizer is not None:
            resets = oracle.resets_optimizer(state.oracle_state)
            opt_state = reset_state(optimizer.tx, opt_state, state.params, resets)
        updates, opt_state = optimizer.tx.update(
            gradients.grads,
            opt_state,
            state.params,
            **extra_args(optimizer.needs, gradients, key, factor),
        )
        params = optax.apply_updates(state.params, updates)
        model_state = gradients.aux.model_state
        guard = unmonitored(opt_state)
        if isinstance(guard, SkipState):
            # Whatever the bad batch touched outside the optimizer is undone as well.
            sound = guard.in_a_row == 0
            model_state = select(sound, model_state, state.model_state)
            skipped = oracle.skipped(state.oracle_state)
            oracle_state = select(sound, oracle_state, skipped)
        rows = batch["inputs"].shape[0]
        metrics = {
            **{f"train/{name}": x for name, x in gradients.aux.metrics.items()},
            "train/grad_norm": global_norm(gradients.grads),
            "train/update_norm": global_norm(updates),
            "train/param_norm": global_norm(params),
            **{f"optim/{name}": x for name, x in factor.items()},
            **state_metrics(opt_state, params),
            **state_metrics(oracle_state, params, "oracle"),
        }
        new_state = TrainState(
            step=state.step + 1,
            cursor=state.cursor + jnp.uint32(rows),
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            oracle_state=oracle_state,
            key=state.key,
        )
        return new_state, metrics

    return step


def step_key(state: TrainState) -> jax.Array:
    """The key of a state's next step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def extra_args(
    needs: frozenset[str],
    gradients: Gradients,
    key: jax.Array,
    others: Mapping[str, jax.Array],
) -> dict[str, Any]:
    """The extra arguments in use; nothing is computed for the others."""
    available = {
        **others,
        "value": gradients.value,
        "grad_fn": gradients.grad_fn,
        "half_difference": gradients.half_difference,
        "activation_grams": gradients.activation_grams,
        "environment_grad_fn": gradients.environment_grad_fn,
        # Stacked over microbatches, of which the transform takes the largest.
        "max_attention_logits": gradients.aux.taps,
        "key": key,
    }
    return {name: available[name] for name in needs}


def grams_due(opt_state: PyTree) -> jax.Array | bool:
    """Whether the next update reads `activation_grams`.

    A transform that reads them only now and then says so in a field `grams_due` of its
    state, a bool scalar about the next update. They are due where any transform wants
    them, and at every step where none has such a field; if one has it, all that read
    Grams need it.

    >>> from typing import NamedTuple
    >>> class Switch(NamedTuple):
    ...     grams_due: jax.Array
    >>> states = [Switch(jnp.array(x)) for x in (False, True)]
    >>> bool(grams_due(states)), bool(grams_due(states[:1])), grams_due({})
    (True, False, True)
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "grams_due"))
    found = [node.grams_due for node in nodes if hasattr(node, "grams_due")]
    return jnp.any(jnp.stack(found)) if found else True


def state_metrics(state: PyTree, params: PyTree, root: str = "optim") -> Metrics:
    """The `metrics` of all states in a tree, each named by its path below `root`.

    States inside a state that reports are found too. That of a `monitor` around all is
    `layers`, and what it wraps is named as if it were not there; a monitor further in
    does not know all layers and is passed over. The tables of all geometry switches are
    one, `geometry`, with a row for each leaf of `params`.
    """
    found: Metrics = {}
    tables = []
    for path, node in _reporting(state, ()):
        name = path_string(path)
        prefix = f"{root}/{name}/" if name else f"{root}/"
        if isinstance(node, MonitorState):
            if node is not state:
                continue
            prefix = ""
        numbers = dict(node.metrics)
        if isinstance(node, SwitchState):
            tables.append((list(named_leaves(node.choice)), numbers.pop(GEOMETRY)))
        found |= {f"{prefix}{key}": value for key, value in numbers.items()}
    return found | ({GEOMETRY: merge_geometry(tables, params)} if tables else {})


def written(metrics: Mapping[str, Any], params: PyTree) -> dict[str, float]:
    """The metrics of a step, on the host, as `metrics.jsonl` has them.

    Layers, named after `params`, are left out where this step did not measure them, and
    so is what an oracle has not measured yet, which is NaN.

    >>> import numpy as np
    >>> metrics = {"train/loss": np.float32(2.0), "layers": np.full((1, 5), -1.0)}
    >>> written(metrics, {"bias": np.zeros(3)})
    {'train/loss': 2.0}
    """
    others = {name: x for name, x in metrics.items() if name not in TABLES}
    layers = layer_metrics(metrics, params)
    numbers = {name: float(x) for name, x in (others | layers).items()}
    return {
        name: x
        for name, x in numbers.items()
        if not (name.startswith("oracle/") and math.isnan(x))
    }


def _reporting(tree: PyTree, above: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    def reports(node: Any) -> bool:
        return isinstance(getattr(node, "metrics", None), dict)

    if reports(tree):
        yield above, tree
    nodes, _ = jax.tree_util.tree_flatten_with_path(
        unmonitored(tree), is_leaf=lambda node: node is not tree and reports(node)
    )
    for path, node in nodes:
        if node is not tree and reports(node):
            yield from _reporting(node, (*above, *path))
