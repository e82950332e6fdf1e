"""The one loop of this package: steps of an optimizer over batches, as a scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError
from jopt.tree import PyTree

# K steps.

Metrics: TypeAlias = dict[str, jax.Array]
# (parameters, batch, what never changes) -> (loss, metrics)
Loss: TypeAlias = Callable[[PyTree, Any, Any], tuple[jax.Array, Metrics]]
# (parameters, what never changes) -> parameters
Project: TypeAlias = Callable[[PyTree, Any], PyTree]


def descend(
    loss_fn: Loss,
    carry: tuple[PyTree, PyTree],
    batches: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Any = None,
    project: Project | None = None,
) -> tuple[tuple[PyTree, PyTree], Metrics]:
    """As many steps as `batches` (K, ...) has rows; one `lax.scan`.

    Args:
        loss_fn: (params, batch, frozen) -> (loss, metrics).
        carry: parameters and the state of the optimizer.
        optimizer: with the extra args `value` and `grad_fn`, for those that take them.
        frozen: arrays that the loss reads. Handed over, since what a function closes
            over becomes a constant of the program.
        project: (params, frozen) -> params, after each step.

    Returns: the carry, and the loss and metrics before each step, (K,).

    >>> tx = optax.sgd(0.25)
    >>> loss = lambda x, b, _: ((x - b) ** 2, {})
    >>> start = jnp.array(0.0)
    >>> (x, _), history = descend(loss, (start, tx.init(start)), jnp.ones(2), tx)
    >>> float(x), history["loss"].tolist()
    (0.75, [1.0, 0.25])
    """

    tx = optax.with_extra_args_support(optimizer)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def step(carry: tuple, batch: Any) -> tuple[tuple, Metrics]:
        params, state = carry
        (loss, metrics), grads = value_and_grad(params, batch, frozen)
        updates, state = tx.update(
            *(grads, state, params),
            value=loss,
            grad_fn=lambda other: value_and_grad(other, batch, frozen)[1],
        )
        params = optax.apply_updates(params, updates)
        if project is not None:
            params = project(params, frozen)
        return (params, state), {"loss": loss, **metrics}

    return jax.lax.scan(step, carry, batches)


def descend_over(
    loss_fn: Loss,
    params: PyTree,
    batches: Iterable[Any],
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    log_every: int,
    frozen: Any = None,
    project: Project | None = None,
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """`descend` over an iterable, one program for `log_every` steps at a time.

    An iterable that can be begun anew (a list, a loader) is, when it ends.

    Returns: the parameters, and the history of the first step of each part and of the
    last step, with its `step`.

    Fails: `ConfigError` for an iterator that ends early, or batches of several shapes.

    >>> loss = lambda x, b, _: ((x - b) ** 2, {})
    >>> x, history = descend_over(
    ...     loss, jnp.array(0.0), [jnp.ones(())], optax.sgd(0.25), 3, log_every=2)
    >>> float(x), history["step"].tolist(), history["loss"].tolist()
    (0.875, [0, 2], [1.0, 0.0625])
    """

    @jax.jit
    def advance(carry: tuple, rows: PyTree, frozen: Any) -> tuple:
        return descend(loss_fn, carry, rows, optimizer, frozen=frozen, project=project)

    carry = (params, optimizer.init(params))
    source = _endless(batches)
    logged: list[dict[str, Any]] = []
    for start in range(0, steps, log_every):
        rows = list(itertools.islice(source, min(log_every, steps - start)))
        if len(rows) < min(log_every, steps - start):
            raise ConfigError(
                f"the batches ended after {start + len(rows)} of {steps} steps; give "
                "more, or an iterable that can be begun anew, such as a list"
            )
        carry, history = advance(carry, _stacked(rows), frozen)
        found = {name: np.asarray(x) for name, x in history.items()}
        logged.append({"step": start, **{name: x[0] for name, x in found.items()}})
        if start + len(rows) == steps and len(rows) > 1:
            last = {name: x[-1] for name, x in found.items()}
            logged.append({"step": steps - 1, **last})
    names = logged[0] if logged else ()
    return carry[0], {name: np.array([row[name] for row in logged]) for name in names}


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        source = iter(batches)
        some = False
        for batch in source:
            some = True
            yield batch
        if not some or source is batches:
            return


def _stacked(rows: list[Any]) -> PyTree:
    shapes = {str(jax.tree.map(jnp.shape, row)) for row in rows}
    if len(shapes) > 1:
        raise ConfigError(
            f"batches of several shapes: {', '.join(sorted(shapes))}; drop the shorter "
            "last one"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
