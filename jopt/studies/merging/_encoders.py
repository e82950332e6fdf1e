"""What is fine-tuned and merged: a perceptron, or a small vision transformer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.data._digits import DIGITS
from jopt.data._mnist5k import MNIST5K
from jopt.models import Model, vit
from jopt.transforms._specs import MatrixSpecs

# N examples; D pixels; F features.

Encoder: TypeAlias = dict[str, Any]
# (parameters, (N, D)) -> (N, F)
Encode: TypeAlias = Callable[[Encoder, jax.Array], jax.Array]


class Architecture(NamedTuple):
    """An encoder as functions.

    Attributes:
        features: F.
        init: two keys -> parameters.
        encode: what it computes.
        matrix_specs: -> which parameters are matrices; None: those with two axes.
    """

    features: int
    init: Callable[[jax.Array], Encoder]
    encode: Encode
    matrix_specs: Callable[[], MatrixSpecs]


def _init_perceptron(keys: jax.Array) -> Encoder:
    """He's initial values, zero biases."""
    return {
        "hidden": _dense(keys[0], DIGITS.pixels, PERCEPTRON.features),
        "output": _dense(keys[1], PERCEPTRON.features, PERCEPTRON.features),
    }


def _dense(key: jax.Array, fan_in: int, fan_out: int) -> dict[str, jax.Array]:
    kernel = jax.random.normal(key, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros(fan_out)}


def _perceive(encoder: Encoder, x_ND: jax.Array) -> jax.Array:
    x_NF = jax.nn.relu(applied(encoder["hidden"], x_ND))
    return applied(encoder["output"], x_NF)


def applied(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A dense layer.

    >>> applied({"kernel": jnp.eye(2), "bias": jnp.ones(2)}, jnp.ones((1, 2))).tolist()
    [[2.0, 2.0]]
    """
    return x @ layer["kernel"] + layer["bias"]


PERCEPTRON = Architecture(256, _init_perceptron, _perceive, lambda: None)

_WIDTH = 128
_HEAD = "head"  # of the model, which has none of its own here
_FEATURES = f"{_HEAD}/input"
_POSITIONS = "positions/embedding"


@functools.cache
def _vit() -> Model:
    return vit(
        {
            "image_size": MNIST5K.side,
            "patch_size": 14,
            "num_layers": 2,
            "embed_dim": _WIDTH,
            "num_heads": 4,
            "pool": "mean",
            "num_classes": 1,
        }
    )


def _init_vit(keys: jax.Array) -> Encoder:
    params, _ = _vit().init(keys[0], None)
    return {name: part for name, part in params.items() if name != _HEAD}


def _see(encoder: Encoder, x_ND: jax.Array) -> jax.Array:
    """What the model's own head would be given; the head itself is left out."""
    no_head = {"kernel": jnp.zeros((_WIDTH, 1)), "bias": jnp.zeros(1)}
    images = x_ND.reshape(-1, MNIST5K.side, MNIST5K.side, 1)
    *_, taps = _vit().apply(
        {**encoder, _HEAD: no_head},
        {},
        {"inputs": images},
        key=None,
        train=False,
        taps=(_FEATURES,),
    )
    return taps[_FEATURES]


def _vit_specs() -> MatrixSpecs:
    """Positions have fewer rows than there are tasks, and are averaged."""
    specs = _vit().matrix_specs
    own = {path: x for path, x in specs.items() if not path.startswith(f"{_HEAD}/")}
    return {**own, _POSITIONS: None}


VIT = Architecture(_WIDTH, _init_vit, _see, _vit_specs)
