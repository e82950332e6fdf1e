"""One encoder for all tasks, and a frozen head for each of them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.merging import entropy
from jopt.objectives._cross_entropy import hits
from jopt.studies.merging._encoders import Architecture, Encode, Encoder, applied

# T tasks; N examples; D pixels; F features; C classes.

CLASSES = 10
_LOGIT_SCALE = 50.0
_EPS = 1e-6

HeadKind: TypeAlias = Literal["cosine", "linear"]
Head: TypeAlias = dict[str, jax.Array]


class Model(NamedTuple):
    """What all tasks start from.

    Attributes:
        encoder: what is fine-tuned and merged.
        heads: leaves (T, ...), frozen after pre-training.
    """

    encoder: Encoder
    heads: Head


def init_model(
    key: jax.Array, architecture: Architecture, tasks: int, head: HeadKind
) -> Model:
    """The initial values of the encoder, and heads.

    Entries of prototypes have variance 1, so that pre-training hardly turns them; those
    of a linear head have 1/F.

    >>> from jopt.studies.merging._encoders import PERCEPTRON
    >>> model = init_model(jax.random.key(0), PERCEPTRON, 8, "cosine")
    >>> model.heads["prototypes"].shape
    (8, 10, 256)
    """
    keys = jax.random.split(key, 3)
    encoder = architecture.init(keys[:2])
    rows_TCF = jax.random.normal(keys[2], (tasks, CLASSES, architecture.features))
    if head == "cosine":
        return Model(encoder, {"prototypes": rows_TCF})
    kernel_TFC = rows_TCF.swapaxes(1, 2) / architecture.features**0.5
    return Model(encoder, {"kernel": kernel_TFC, "bias": jnp.zeros((tasks, CLASSES))})


def logits(encode: Encode, encoder: Encoder, head: Head, x_ND: jax.Array) -> jax.Array:
    """(N, C) of one task: 50 times cosines to its prototypes, or a linear head's.

    >>> head = {"prototypes": jnp.eye(2)}
    >>> z_NC = logits(lambda w, x: w * x, 3.0, head, jnp.array([[0.0, 2.0]]))
    >>> [f"{z:.3f}" for z in z_NC[0]]
    ['0.000', '50.000']
    """
    x_NF = encode(encoder, x_ND)
    if "prototypes" in head:
        return _LOGIT_SCALE * _unit(x_NF) @ _unit(head["prototypes"]).T
    return applied(head, x_NF)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _EPS**2)


def task_logits(
    encode: Encode, encoders: Encoder, heads: Head, x_TND: jax.Array, *, own: bool
) -> jax.Array:
    """(T, N, C).

    Args:
        own: whether each task has an encoder of its own, leaves (T, ...), or all share
            one.
    """

    def one(encoder: Encoder, head: Head, x_ND: jax.Array) -> jax.Array:
        return logits(encode, encoder, head, x_ND)

    return jax.vmap(one, in_axes=(0 if own else None, 0, 0))(encoders, heads, x_TND)


def accuracies(logits_TNC: jax.Array, targets_N: jax.Array) -> jax.Array:
    """The share of right answers of each task, (T,).

    >>> accuracies(jnp.array([[[1.0, 0.0], [1.0, 0.0]]]), jnp.array([0, 1])).tolist()
    [0.5]
    """
    return jax.vmap(lambda z_NC: jnp.mean(hits(z_NC, targets_N)))(logits_TNC)


def mean_entropy(logits_TNC: jax.Array) -> Any:
    """Of the predictions of each task, in nats, (T,)."""
    return jnp.mean(entropy(logits_TNC), axis=-1)
