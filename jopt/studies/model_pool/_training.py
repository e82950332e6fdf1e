"""Steps of a model over batches, for pre-training and for fine-tuning alike."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.merging._descend import descend
from jopt.models import Model
from jopt.optimizers import torch_sgd
from jopt.studies._optimizers import clipped_adam

# K steps; B rows of each; E environments; N examples; C classes.

# `inputs` (K, B, ...) and `targets` (K, B, C), a distribution of classes each.
Batches = Mapping[str, np.ndarray]
RHO = 0.05
MOMENTUM = 0.9
DECAY = 0.01


def _sam(rate: Any, steps: int) -> optax.GradientTransformation:
    return jopt.sharpness_aware(clipped_adam(rate, steps), jopt.l2_ascent(RHO))


def _momentum(rate: Any, steps: int) -> optax.GradientTransformation:
    del steps
    return torch_sgd(rate, momentum=MOMENTUM)


def _adamw(rate: Any, steps: int) -> optax.GradientTransformation:
    del steps
    return optax.adamw(rate, weight_decay=DECAY)


# (rate, steps) -> optimizer. The first two are for pre-training, with a cosine.
OPTIMIZERS: dict[str, Callable[[Any, int], optax.GradientTransformation]] = {
    "adam": clipped_adam,
    "sam": _sam,
    "momentum": _momentum,
    "adamw": _adamw,
}


class Network(NamedTuple):
    """A model's arrays."""

    params: Any
    state: Any


def trained(
    model: Model,
    network: Network,
    optimizer: str,
    rate: float,
    steps: int,
    segments: Iterator[Batches],
) -> Iterator[tuple[int, Network]]:
    """The network after each segment of batches, with the number of its steps.

    Statistics of norms in the network's state are read and never updated, dropout is
    off; so what is trained is pure in parameters and inputs.

    Args:
        optimizer: a key of `OPTIMIZERS`.
        rate: the learning rate; of another one nothing is compiled anew.
        steps: of all segments, for schedules.
    """
    start, advance = _programs(model, optimizer, steps)
    rate_now = jnp.float32(rate)
    carry = network.params, start(network.params, rate_now)
    done = 0
    for batches in segments:
        carry = advance(carry, batches, (network.state, rate_now))
        done += len(batches["inputs"])
        yield done, network._replace(params=carry[0])


@functools.lru_cache(maxsize=4)
def _programs(
    model: Model, optimizer: str, steps: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def loss(params: Any, batch: Any, frozen: Any) -> tuple[jax.Array, dict]:
        logits, _, _ = model.apply(params, frozen[0], batch, key=None, train=False)
        losses_B = optax.softmax_cross_entropy(
            logits.astype(jnp.float32), batch["targets"]
        )
        return jnp.mean(losses_B), {}

    def start(params: Any, rate: jax.Array) -> Any:
        return OPTIMIZERS[optimizer](rate, steps).init(params)

    def advance(carry: Any, batches: Any, frozen: Any) -> Any:
        tx = OPTIMIZERS[optimizer](frozen[1], steps)
        return descend(loss, carry, batches, tx, frozen=frozen)[0]

    return jax.jit(start), jax.jit(advance)


def logits_of(model: Model, network: Network, inputs: Any) -> jax.Array:
    """Logits (E, N, C) of inputs (E, N, ...), float32, some rows at a time."""
    shape = inputs.shape[2:]
    rows = inputs.reshape(-1, *shape)
    # Activations of all examples at once would be many.
    some = max(8, min(512, 2**24 // math.prod(shape)))
    parts = [
        _logits(model, network.params, network.state, rows[begin:][:some])
        for begin in range(0, len(rows), some)
    ]
    return jnp.concatenate(parts).reshape(*inputs.shape[:2], -1)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Any, state: Any, inputs: jax.Array) -> jax.Array:
    batch = {"inputs": inputs}
    logits, _, _ = model.apply(params, state, batch, key=None, train=False)
    return logits.astype(jnp.float32)
