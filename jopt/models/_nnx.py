"""Flax NNX modules behind the pure functions of a `Model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt import tree
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import AttentionSpec
from jopt.models._model import (
    Batch,
    Model,
    ModelState,
    Params,
    SpecSource,
    all_taps,
    check_known,
    declare_model,
)
from jopt.models._taps import Taps

Call = Callable[[Any, Batch, Taps], Any]


def _call_inputs(module: Any, batch: Batch, taps: Taps) -> Any:
    return module(batch["inputs"])


def nnx_model(
    factory: Callable[[nnx.Rngs], nnx.Module],
    *,
    call: Call = _call_inputs,
    matrix_specs: SpecSource = None,
    taps: Mapping[str, str] | None = None,
    tap_names: Sequence[str] = (),
    flops_per_token: Callable[[int], int] | None = None,
    vocab_size: int = 0,
    attention: Mapping[str, AttentionSpec] | None = None,
) -> Model:
    """A `Model` from a function that builds an NNX module.

    The module is traced once without values. Its `nnx.Param` variables become `params`,
    its random streams are seeded anew from `key` in each call, and every other variable
    (BatchNorm statistics) becomes `model_state`. Integer keys of `nnx.List` turn into
    strings. `train` sets `deterministic` and `use_running_average` as `Module.train`
    and `Module.eval` do.

    Args:
        factory: `factory(rngs) -> module`.
        call: `call(module, batch, taps) -> outputs`; records activations in `taps`.
            The default is `module(batch["inputs"])`.
        matrix_specs: view of each parameter with two axes or more, as a mapping by path
            or a function of (path, shape).
        taps: weight path -> name of the tap that multiplies it.
        tap_names: further taps that `call` records.
        flops_per_token: defaults to 6 for each parameter that has a matrix view.
        vocab_size: number of token ids, where that applies.
        attention: name of a tap -> the weights that make its logits, see `Model`.

    >>> from jopt.matrix import MatrixSpec
    >>> model = nnx_model(
    ...     lambda rngs: nnx.Linear(2, 3, rngs=rngs),
    ...     matrix_specs={"kernel": MatrixSpec((0,), (1,))},
    ... )
    >>> batch = {"inputs": jnp.ones((4, 2))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> outputs, state, _ = model.apply(params, state, batch, key=None, train=False)
    >>> outputs.shape, state
    ((4, 3), {})
    """
    module = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    graphs = {}
    for train in (False, True):
        module.train() if train else module.eval()
        graphs[train], states = _split(module)
    params_slot = _Slot("params", states[0])
    rng_slot = _Slot("random streams", states[1])
    rest_slot = _Slot("model_state", states[2])
    shapes = {path: leaf.shape for path, leaf in params_slot.leaves.items()}
    names = all_taps(taps, tap_names)

    def init(key: jax.Array, batch: Batch | None = None) -> tuple[Params, ModelState]:
        del batch  # An NNX module knows its shapes.
        _, (params, _, rest) = _split(factory(nnx.Rngs(key)))
        return params_slot.read(params), rest_slot.read(rest)

    def apply(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        *,
        key: jax.Array | None,
        train: bool,
        taps: Sequence[str] = (),
    ) -> tuple[Any, ModelState, dict[str, jax.Array]]:
        check_known(taps, names, "unknown tap")
        if key is None and train and rng_slot.leaves:
            raise ConfigError(
                "apply needs a key to train: the module draws random numbers at "
                + ", ".join(rng_slot.leaves)
            )
        module = nnx.merge(
            graphs[bool(train)],
            params_slot.write(params),
            rng_slot.fill(_seeds(rng_slot, key)),
            rest_slot.write(model_state),
        )
        recorder = Taps(taps)
        outputs = call(module, batch, recorder)
        missing = [name for name in taps if name not in recorder.values]
        if missing:
            raise ConfigError(
                f"the module declares but never records: {', '.join(missing)}"
            )
        if rest_slot.leaves:
            model_state = rest_slot.read(_split(module)[1][2])
        return outputs, model_state, recorder.values

    return declare_model(
        init,
        apply,
        shapes,
        matrix_specs=matrix_specs,
        taps=taps,
        tap_names=tap_names,
        flops_per_token=flops_per_token,
        vocab_size=vocab_size,
        attention=attention,
    )


def _split(module: nnx.Module) -> tuple[Any, tuple[nnx.State, ...]]:
    """The graph, and the states of parameters, random streams and everything else."""
    parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return parts[0], tuple(parts[1:])


class _Slot:
    """One part of a split module: its leaves by path, to and from a nested dict."""

    def __init__(self, name: str, state: nnx.State) -> None:
        leaves, self.treedef = jax.tree_util.tree_flatten_with_path(state)
        self.name = name
        # The last key is the value inside its Variable and no part of the name.
        self.leaves = {tree.path_string(path[:-1]): leaf for path, leaf in leaves}

    def read(self, state: nnx.State) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for path, leaf in zip(self.leaves, jax.tree.leaves(state), strict=True):
            *parents, last = path.split("/")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
        return nested

    def write(self, nested: Mapping[str, Any]) -> nnx.State:
        given = tree.named_leaves(nested)
        if given.keys() != self.leaves.keys():
            missing = [path for path in self.leaves if path not in given]
            extra = [path for path in given if path not in self.leaves]
            raise ShapeError(
                f"{self.name} do not fit the model: missing {missing}, "
                f"not expected {extra}"
            )
        return self.fill(given)

    def fill(self, leaves: Mapping[str, Any]) -> nnx.State:
        # Keys such as "10" sort differently from 10, so leaves go in by name.
        return jax.tree.unflatten(self.treedef, [leaves[path] for path in self.leaves])


def _seeds(slot: _Slot, key: jax.Array | None) -> dict[str, jax.Array]:
    """Keys of its own for each random stream, and each counter at zero."""
    key = jax.random.key(0) if key is None else key

    def seed(position: int, leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        stream = jax.random.fold_in(key, position)
        # Stacked modules have a key each.
        return jax.random.split(stream, leaf.shape) if leaf.ndim else stream

    return {
        path: seed(position, leaf)
        for position, (path, leaf) in enumerate(slot.leaves.items())
    }
