"""The objective of the second pass of a member of the SAM family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopt.models import Model
from jopt.training._sharpness import MEMBERS
from jopt.training._task import Task
from jopt.transforms import most_risen

PyTree = Any
# (other parameters, clean pass, model state, batch, key) -> a scalar, whose gradient by
# the other parameters is the second gradient.
Second: TypeAlias = Callable[..., jax.Array]

# The tap that has the outputs of a model, see `handing_outputs`.
OUTPUTS = "outputs"
READS_OUTPUTS = ("functional_sam", "esam")


class Clean(NamedTuple):
    """What a second pass may know of the first.

    Attributes:
        params: where it was made.
        outputs: of the model there; None where they are not at hand.
    """

    params: PyTree
    outputs: PyTree = None


def handing_outputs(model: Model) -> Model:
    """`model` with its outputs as one more tap, `OUTPUTS`.

    A second pass that needs the clean outputs would compute them again: XLA does not
    recognize the forward pass it has done already.
    """

    def apply(*args: Any, taps: Any = (), **options: Any) -> tuple[PyTree, PyTree, Any]:
        own = tuple(name for name in taps if name != OUTPUTS)
        outputs, state, found = model.apply(*args, taps=own, **options)
        asked = {OUTPUTS: outputs} if OUTPUTS in taps else {}
        return outputs, state, found | asked

    return dataclasses.replace(model, apply=apply)


def second_pass(oracle: ConfigDict, task: Task, model: Model) -> Second:
    """The second pass of the member that `config.oracle` names.

    Functional-SAM needs the model and the loss of its outputs apart, and ESAM the loss
    of each row. Both come from the objective of the task, of a model whose outputs are
    given. They compute the clean outputs where those are not at hand.
    """
    gamma = MEMBERS["esam"]["gamma"] if oracle.gamma is None else oracle.gamma
    objective = task.objective(model)

    def plain(
        other: PyTree, clean: Clean, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        del clean
        return objective(other, state, batch, key)[0]

    def outputs(p: PyTree, state: PyTree, batch: PyTree, key: jax.Array) -> PyTree:
        return model.apply(p, state, batch, key=key, train=True)[0]

    def clean_outputs(
        clean: Clean, state: PyTree, batch: PyTree, key: jax.Array
    ) -> PyTree:
        if clean.outputs is not None:
            return clean.outputs
        return outputs(clean.params, state, batch, key)

    def loss_of(z: PyTree, state: PyTree, batch: PyTree, key: jax.Array) -> jax.Array:
        """The objective of a model with these outputs."""

        def given(*args: Any, **options: Any) -> tuple[PyTree, PyTree, dict]:
            return z, state, {}

        fixed = dataclasses.replace(model, apply=given)
        return task.objective(fixed)({}, state, batch, key)[0]

    def functional(
        other: PyTree, clean: Clean, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        z = jax.lax.stop_gradient(clean_outputs(clean, state, batch, key))
        cotangent = jax.grad(loss_of)(z, state, batch, key)
        products = jax.tree.map(
            lambda c, o: jnp.sum(c.astype(jnp.float32) * o.astype(jnp.float32)),
            cotangent,
            outputs(other, state, batch, key),
        )
        return sum(jax.tree.leaves(products), jnp.zeros(()))

    def row_losses(
        z: PyTree, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        def one(z: PyTree, row: PyTree) -> jax.Array:
            z, row = jax.tree.map(lambda x: x[None], (z, row))
            return loss_of(z, state, row, key)

        return jax.vmap(one)(z, batch)

    def selective(
        other: PyTree, clean: Clean, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        z = clean_outputs(clean, state, batch, key)
        moved = outputs(other, state, batch, key)
        before, after = (row_losses(x, state, batch, key) for x in (z, moved))
        chosen = most_risen(jax.lax.stop_gradient(after - before), gamma)
        rows = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), batch)
        return objective(other, state, rows, key)[0]

    return {"functional_sam": functional, "esam": selective}.get(oracle.name, plain)
