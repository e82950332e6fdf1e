"""A model that chooses among some of its classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jopt.models import Model


def among_classes(model: Model, classes: ArrayLike | None) -> Model:
    """The same model with the logits of these classes alone, in this order.

    A softmax over them is that over all classes with the logits of the others at minus
    infinity: p_c = exp z_c / sum_{c' in classes} exp z_c'. So a model of many classes
    is judged on examples of a few, such as the 200 of ImageNet-A (Hendrycks et al.,
    2021, arXiv 1907.07174). A target is the place of its class in `classes`.

    Args:
        model: whose outputs are logits (B, C).
        classes: int (K,), which of the C; None: the model as it is.

    >>> import jax
    >>> from jopt.models import mlp
    >>> model = mlp({"hidden_dim": 8})
    >>> batch = {"inputs": jnp.ones((2, 64))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> few = among_classes(model, [7, 2])
    >>> few.apply(params, state, batch, key=None, train=False)[0].shape
    (2, 2)
    """
    if classes is None:
        return model
    chosen_K = jnp.asarray(classes, jnp.int32)

    def apply(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        logits, state, taps = model.apply(*args, **kwargs)
        return jnp.take(logits, chosen_K, axis=-1), state, taps

    return dataclasses.replace(model, apply=apply)
