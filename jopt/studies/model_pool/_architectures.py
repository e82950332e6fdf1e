"""The families of the pool, each by one number of width."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.models import Model, cnn, mlp, vit
from jopt.studies.model_pool._data import PATCH
from jopt.tree import count, named_leaves

Shape = tuple[int, ...]
HEAD = "head"


class Family(NamedTuple):
    """Models that differ in width alone.

    Attributes:
        build: (width, input shape, classes) -> model.
        step: of which the width must be a multiple.
    """

    build: Callable[[int, Shape, int], Model]
    step: int


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


def _images(shape: Shape, classes: int) -> dict[str, Any]:
    return {"image_size": shape[0], "channels": shape[2], "num_classes": classes}


# Two hidden layers of `width`; the network of DomainBed with `width` outputs of its
# first convolution; two blocks with an embedding of `width` and heads of 16.
FAMILIES = {"mlp": Family(_mlp, 1), "cnn": Family(_cnn, 4), "vit": Family(_vit, 16)}


@functools.lru_cache(maxsize=64)
def build(architecture: str, input_shape: Shape, num_classes: int) -> Model:
    """The model `FAMILY_WIDTH`, such as `cnn_16`, for these images and classes.

    The same object for the same arguments, so that its programs are compiled once.

    Fails: `ConfigError` for an unknown family or a width that it does not come in.

    >>> model = build("cnn_16", (8, 8, 1), 10)
    >>> num_params(model, (8, 8, 1)), feature_dim(model, (8, 8, 1))
    (23914, 32)
    """
    family, _, width = architecture.partition("_")
    check_choice("architecture", family, FAMILIES)
    step = FAMILIES[family].step
    if not width.isdecimal() or int(width) < 1 or int(width) % step:
        raise ConfigError(
            f"architecture {architecture}: expected {family}_WIDTH with a multiple of "
            f"{step} for WIDTH, such as {family}_{16 * step}"
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
