"""Flax Linen modules behind the pure functions of a `Model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen, traverse_util

from jopt import tree
from jopt.errors import ConfigError
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

SOWN = "intermediates"

Call = Callable[[Any, Batch, bool], Any]


def _call_inputs(module: linen.Module, batch: Batch, train: bool) -> Any:
    return module(batch["inputs"], train=train)


def linen_model(
    module: linen.Module,
    batch: Batch,
    *,
    call: Call = _call_inputs,
    matrix_specs: SpecSource = None,
    taps: Mapping[str, str] | None = None,
    tap_names: Sequence[str] = (),
    flops_per_token: Callable[[int], int] | None = None,
    vocab_size: int = 0,
    attention: Mapping[str, AttentionSpec] | None = None,
) -> Model:
    """A `Model` from a Linen module.

    The collection `params` becomes `params`, and every other one `model_state`, which
    an `apply` with `train` may change. `key` feeds each of the streams params and
    dropout. A tap is what the module sows into `intermediates`, under the path of the
    submodule and the name sown: `self.sow("intermediates", "hidden", x)` inside `mlp`
    is the tap `mlp/hidden`. Sown values are always traced; compiled code drops those
    that nobody asked for.

    Args:
        module: the Linen module.
        batch: an example; arrays or `jax.ShapeDtypeStruct`, for shapes only.
        call: `call(module, batch, train) -> outputs`; the default is
            `module(batch["inputs"], train=train)`.
        matrix_specs, taps, tap_names, flops_per_token, vocab_size, attention: as in
            `nnx_model`.

    >>> import jax.numpy as jnp
    >>> from jopt.matrix import MatrixSpec
    >>> batch = {"inputs": jnp.ones((4, 2))}
    >>> model = linen_model(
    ...     linen.Dense(3),
    ...     batch,
    ...     call=lambda module, batch, train: module(batch["inputs"]),
    ...     matrix_specs={"kernel": MatrixSpec((0,), (1,))},
    ... )
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> jax.tree.map(jnp.shape, params), state
    ({'bias': (3,), 'kernel': (2, 3)}, {})
    """
    names = all_taps(taps, tap_names)

    def run(module: linen.Module, batch: Batch, train: bool) -> Any:
        return call(module, batch, train)

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        variables = module.init(_streams(key), batch, False, method=run)
        variables = {name: value for name, value in variables.items() if name != SOWN}
        return variables.pop("params", {}), variables

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
        outputs, updates = module.apply(
            {"params": params, **model_state},
            batch,
            train,
            method=run,
            rngs=_streams(key) if key is not None and train else None,
            mutable=[*(model_state if train else ()), *([SOWN] if taps else ())],
        )
        changed = dict(updates)
        sown = _last_sown(changed.pop(SOWN, {}))
        missing = [name for name in taps if name not in sown]
        if missing:
            raise ConfigError(
                f"the module declares but never sows: {', '.join(missing)}"
            )
        values = {name: sown[name] for name in taps}
        return outputs, {**model_state, **changed}, values

    shapes = {
        path: leaf.shape
        for path, leaf in tree.named_leaves(
            jax.eval_shape(init, jax.random.key(0), dict(batch))[0]
        ).items()
    }
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


def _streams(key: jax.Array) -> dict[str, jax.Array]:
    params, dropout = jax.random.split(key)
    return {"params": params, "dropout": dropout}


def _last_sown(collection: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Sown values by path; `sow` collects a tuple, whose last entry counts."""
    flat = traverse_util.flatten_dict(collection, sep="/")
    return {path: values[-1] for path, values in flat.items()}
