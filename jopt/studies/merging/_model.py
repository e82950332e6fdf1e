"""One encoder for all tasks, and a frozen head for each of them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.merging import entropy
from jopt.objectives._cross_entropy import hits

# T tasks; N examples; D pixels; F features; C classes.

FEATURES = 256
CLASSES = 10
_LOGIT_SCALE = 50.0
_EPS = 1e-6

HeadKind: TypeAlias = Literal["cosine", "linear"]
Encoder: TypeAlias = dict[str, dict[str, jax.Array]]
Head: TypeAlias = dict[str, jax.Array]


class Model(NamedTuple):
    """What all tasks start from.

    Attributes:
        encoder: two dense layers; what is fine-tuned and merged.
        heads: leaves (T, ...), frozen after pre-training.
    """

    encoder: Encoder
    heads: Head


def init_model(key: jax.Array, pixels: int, tasks: int, head: HeadKind) -> Model:
    """He's initial values, zero biases.

    Entries of prototypes have variance 1, so that pre-training hardly turns them; those
    of a linear head have 1/F.

    >>> init_model(jax.random.key(0), 64, 8, "cosine").heads["prototypes"].shape
    (8, 10, 256)
    """
    hidden, output, own = jax.random.split(key, 3)
    encoder = {
        "hidden": _dense(hidden, pixels, FEATURES),
        "output": _dense(output, FEATURES, FEATURES),
    }
    rows_TCF = jax.random.normal(own, (tasks, CLASSES, FEATURES))
    if head == "cosine":
        return Model(encoder, {"prototypes": rows_TCF})
    kernel_TFC = rows_TCF.swapaxes(1, 2) / FEATURES**0.5
    return Model(encoder, {"kernel": kernel_TFC, "bias": jnp.zeros((tasks, CLASSES))})


def _dense(key: jax.Array, fan_in: int, fan_out: int) -> dict[str, jax.Array]:
    kernel = jax.random.normal(key, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros(fan_out)}


def logits(encoder: Encoder, head: Head, x_ND: jax.Array) -> jax.Array:
    """(N, C) of one task: 50 times cosines to its prototypes, or a linear head's.

    >>> model = init_model(jax.random.key(0), 64, 1, "cosine")
    >>> own = {name: leaf[0] for name, leaf in model.heads.items()}
    >>> z_NC = logits(model.encoder, own, jnp.ones((2, 64)))
    >>> z_NC.shape, bool(jnp.max(jnp.abs(z_NC)) <= 50)
    ((2, 10), True)
    """
    x_NF = jax.nn.relu(_applied(encoder["hidden"], x_ND))
    x_NF = _applied(encoder["output"], x_NF)
    if "prototypes" in head:
        return _LOGIT_SCALE * _unit(x_NF) @ _unit(head["prototypes"]).T
    return _applied(head, x_NF)


def _applied(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _EPS**2)


def task_logits(
    encoders: Encoder, heads: Head, x_TND: jax.Array, *, own: bool
) -> jax.Array:
    """(T, N, C).

    Args:
        own: whether each task has an encoder of its own, leaves (T, ...), or all share
            one.
    """
    return jax.vmap(logits, in_axes=(0 if own else None, 0, 0))(encoders, heads, x_TND)


def accuracies(logits_TNC: jax.Array, targets_N: jax.Array) -> jax.Array:
    """The share of right answers of each task, (T,).

    >>> accuracies(jnp.array([[[1.0, 0.0], [1.0, 0.0]]]), jnp.array([0, 1])).tolist()
    [0.5]
    """
    return jax.vmap(lambda z_NC: jnp.mean(hits(z_NC, targets_N)))(logits_TNC)


def mean_entropy(logits_TNC: jax.Array) -> Any:
    """Of the predictions of each task, in nats, (T,)."""
    return jnp.mean(entropy(logits_TNC), axis=-1)
