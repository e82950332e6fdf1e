"""The keys of a config that are about images, and what can be wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from jopt.data import AUGMENTATIONS, IMAGE_SETS, SEVERITIES
from jopt.errors import did_you_mean
from jopt.objectives import LOSSES

DATASETS = tuple(IMAGE_SETS)


def faults(config: ConfigDict) -> Iterator[str]:
    """A message for each of these keys that cannot work."""
    images = IMAGE_SETS.get(config.data.name)
    if config.objective.name != "classification" or images is None:
        yield from _only_for_images(config)
        return
    yield from _choices(config)
    yield from shape_faults(config, images.shape, images.num_classes)
    for key, names in (
        ("corruptions", images.corruptions),
        ("shifts", tuple(images.shifts)),
    ):
        known = (*names, "all")
        for name in config.eval[key]:
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"eval.{key} has {name!r}; known are {list(known)}{hint}"


def shape_faults(
    config: ConfigDict, shape: tuple[int, ...], num_classes: int
) -> Iterator[str]:
    """Whether the model is for inputs (H, W, C), or (T,), of so many classes."""
    wanted = {"input_dim": math.prod(shape)}
    if len(shape) == 3:
        wanted |= {"image_size": shape[0], "channels": shape[2]}
    for key, value in wanted.items():
        if config.model.get(key, value) != value:
            yield (
                f"model.{key} is {config.model[key]}; the inputs of data.name = "
                f"{config.data.name!r} are {shape}, so it must be {value}"
            )
    if len(shape) == 1:
        yield from _text_faults(config, shape[0])
    classes = config.model.get("num_classes", num_classes)
    if isinstance(classes, int) and classes < num_classes:
        yield (
            f"model.num_classes is {classes}; data.name = {config.data.name!r} has "
            f"{num_classes} classes"
        )


def _text_faults(config: ConfigDict, length: int) -> Iterator[str]:
    """Bytes have 256 values, and each position has a place."""
    for key, least in (("vocab_size", 256), ("context", length)):
        found = config.model.get(key, None)
        if not isinstance(found, int) or found < least:
            yield (
                f"model.{key} is {found}; texts of data.name = {config.data.name!r} "
                f"are {length} bytes, so a model of text with at least {least} is "
                "expected"
            )


def _choices(config: ConfigDict) -> Iterator[str]:
    choices = (
        ("data.augment", config.data.augment, tuple(AUGMENTATIONS)),
        ("objective.loss", config.objective.loss, LOSSES),
    )
    for key, value, allowed in choices:
        if value not in allowed:
            hint = did_you_mean(value, allowed)
            yield f"{key} is {value!r}; one of {list(allowed)} is expected{hint}"
    if not 0 <= config.objective.label_smoothing < 1:
        yield (
            f"objective.label_smoothing is {config.objective.label_smoothing}; it lies "
            "in [0, 1)"
        )
    strange = [x for x in config.eval.severities if x not in SEVERITIES]
    if strange or not config.eval.severities:
        yield (
            f"eval.severities is {config.eval.severities}; it holds some of "
            f"{SEVERITIES}"
        )


def _only_for_images(config: ConfigDict) -> Iterator[str]:
    """What has no meaning for text must be left as it is."""
    plain = {
        "data.augment": (config.data.augment, "none"),
        "objective.loss": (config.objective.loss, "cross_entropy"),
        "objective.label_smoothing": (config.objective.label_smoothing, 0.0),
        "eval.corruptions": (tuple(config.eval.corruptions), ()),
        "eval.shifts": (tuple(config.eval.shifts), ()),
    }
    for key, (value, default) in plain.items():
        if value != default:
            yield (
                f"{key} is {value!r}, which is for objective.name = 'classification'; "
                f"leave it at {default!r}"
            )
