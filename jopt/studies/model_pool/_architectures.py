"""The families of the pool, each by one number of width."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.models import RESNETS, Model, cnn, mlp, resnet, vit
from jopt.studies.model_pool._data import PATCH
from jopt.tree import count, named_leaves

Shape = tuple[int, ...]
HEAD = "head"


class Family(NamedTuple):
    """Models that differ in one number.

    Attributes:
        build: (number, input shape, classes) -> model.
        sizes: what the number may be, in words.
        has: whether there is a model of a number.
    """

    build: Callable[[int, Shape, int], Model]
    sizes: str
    has: Callable[[int], bool]


def _mlp(width: int, shape: Shape, classes: int) -> Model:
    inputs = math.prod(shape)
    return mlp({"input_dim": inputs, "hidden_dim": width, "num_classes": classes})


def _cnn(width: int, shape: Shape, classes: int) -> Model:
    groups = math.gcd(width, 8)
    return cnn({**_images(shape, classes), "width": width, "groups": groups})


def _vit(width: int, shape: Shape, classes: int) -> Model:
    return vit(
        {
            **_images(shape, classes),
            "patch_size": PATCH,
            "num_layers": 2,
            "embed_dim": width,
            "num_heads": max(1, width // 16),
            "pool": "mean",
        }
    )


def _resnet(depth: int, shape: Shape, classes: int) -> Model:
    settings = RESNETS[str(depth)]
    return resnet({**_images(shape, classes), "stem": "imagenet", **settings})


def _vit16(width: int, shape: Shape, classes: int) -> Model:
    return vit(
        {
            **_images(shape, classes),
            "patch_size": 16,
            "embed_dim": width,
            "num_heads": width // 64,
            "activation": "exact_gelu",
        }
    )


def _multiples(step: int) -> tuple[str, Callable[[int], bool]]:
    return f"a multiple of {step}", lambda number: number > 0 and number % step == 0


def _images(shape: Shape, classes: int) -> dict[str, Any]:
    return {"image_size": shape[0], "channels": shape[2], "num_classes": classes}


# Of the pool, by width: two hidden layers; the network of DomainBed, by the outputs of
# its first convolution; two blocks with heads of 16, by the embedding. Published ones,
# for a user's own weights: ResNets by depth; 12 blocks with patches of 16 and heads of
# 64, of which 192, 384 and 768 are ViT-Ti, -S and -B.
FAMILIES = {
    "mlp": Family(_mlp, *_multiples(1)),
    "cnn": Family(_cnn, *_multiples(4)),
    "vit": Family(_vit, *_multiples(16)),
    "resnet": Family(_resnet, "18 or 50", lambda depth: depth in (18, 50)),
    "vit16": Family(_vit16, *_multiples(64)),
}


@functools.lru_cache(maxsize=64)
def build(architecture: str, input_shape: Shape, num_classes: int) -> Model:
    """The model `FAMILY_NUMBER`, such as `cnn_16`, for these images and classes.

    The same object for the same arguments, so that its programs are compiled once.

    Fails: `ConfigError` for an unknown family, a number that it does not come in, and
    images that it cannot read.

    >>> model = build("cnn_16", (8, 8, 1), 10)
    >>> num_params(model, (8, 8, 1)), feature_dim(model, (8, 8, 1))
    (23850, 32)
    """
    family, _, width = architecture.partition("_")
    check_choice("architecture", family, FAMILIES)
    if not width.isdecimal() or not FAMILIES[family].has(int(width)):
        raise ConfigError(
            f"architecture {architecture}: expected {family}_NUMBER with "
            f"{FAMILIES[family].sizes} for NUMBER"
        )
    return FAMILIES[family].build(int(width), input_shape, num_classes)


def shapes_of(model: Model, input_shape: Shape) -> tuple[Any, Any]:
    """Parameters and state of a model, as shapes; no array is made."""
    batch = {"inputs": jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)}
    return jax.eval_shape(model.init, jax.random.key(0), batch)


def num_params(model: Model, input_shape: Shape) -> int:
    """Numbers in the parameters, the head among them."""
    return count(shapes_of(model, input_shape)[0])


def feature_dim(model: Model, input_shape: Shape) -> int:
    """What the linear classifier reads."""
    return named_leaves(shapes_of(model, input_shape)[0])[f"{HEAD}/kernel"].shape[0]
