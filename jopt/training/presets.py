"""Bases that config files build on."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.training._config import default_config


def rule(match: str, name: str, learning_rate: float, **options: Any) -> ConfigDict:
    """One optimizer rule: parameters whose path matches `match` go to optimizer `name`.

    >>> rule(r"blocks/.*", "muon", 0.02).learning_rate
    0.02
    """
    return ConfigDict(
        {"match": match, "name": name, "learning_rate": float(learning_rate), **options}
    )


def language_model(size: str = "") -> ConfigDict:
    """A byte language model on the plays, without optimizer rules.

    Args:
        size: `micro` (half a minute on two CPU cores), `tiny` (five minutes, the
            default), `small` (an hour), or `gpt2`: the layers of the smallest GPT-2 and
            its context, on bytes, for an accelerator. `gpt2` has its shapes, rules and
            parameter count checked and has not been trained; its head is not tied,
            which GPT-2 needs for 50257 ids and which saves 0.2 % with 256.
    """
    from jopt import models

    size = size or "tiny"
    check_choice("size", size, _RUNS)
    config = default_config()
    config.model = ConfigDict({**models.default_config(), **models.SIZES[size]})
    for key, value in _RUNS[size].items():
        config.update_from_flattened_dict({key: value})
    return config


def adamw_language_model(size: str = "") -> ConfigDict:
    """`language_model` with the tuned rules of AdamW.

    >>> config = adamw_language_model("micro")
    >>> config.optim.order, config.optim.rules.matrix.learning_rate
    (('matrix', 'rest'), 0.0015)
    """
    config = language_model(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = rule(
        r"blocks/.*/kernel", "adamw", 0.0015, b1=0.9, b2=0.95, weight_decay=0.1
    )
    config.optim.rules.rest = rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    return config


def muon_language_model(size: str = "") -> ConfigDict:
    """`language_model` with the tuned rules: Muon on the matrices, AdamW on the rest.

    >>> config = muon_language_model("micro")
    >>> config.optim.order, config.optim.rules.matrix.learning_rate
    (('matrix', 'rest'), 0.007)
    """
    config = language_model(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = rule(
        r"blocks/.*/kernel",
        "muon",
        0.007,
        beta=0.9,
        weight_decay=0.0,
        compute_dtype="auto",
    )
    config.optim.rules.rest = rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    return config


def digits(size: str = "") -> ConfigDict:
    """A perceptron on 8 x 8 digits, without optimizer rules.

    Args:
        size: `micro`, the only one: seconds on one CPU core.
    """
    from jopt import models

    check_choice("size", size or "micro", ("micro",))
    config = _classification("digits", dataclasses.asdict(models.MlpConfig()))
    config.train.update(steps=300, batch_size=64)
    config.checkpoint.every_steps = 100
    config.eval.batch_size = 180
    return config


def images(model: str = "cnn", data: str = "digits", size: str = "") -> ConfigDict:
    """A small model of images, without optimizer rules.

    Args:
        model: mlp, cnn (GroupNorm), resnet (BatchNorm) or vit.
        data: digits (8 x 8) or mnist5k (28 x 28).
        size: `micro` (seconds to half a minute on two CPU cores) or `tiny` (up to five
            minutes, the default).
    """
    check_choice("model", model, IMAGE_MODELS)
    check_choice("data", data, tuple(_IMAGE_RUNS))
    size = size or "tiny"
    check_choice("size", size, tuple(_IMAGE_RUNS[data]))
    config = _classification(data, _image_model(model, data))
    config.train.update(batch_size=64, steps=_IMAGE_RUNS[data][size])
    config.checkpoint.every_steps = 100
    config.eval.update(batch_size=250 if data == "mnist5k" else 180, every_steps=100)
    return config


def cifar10(
    model: str, batch_size: int = 256, num_epochs: int = 200, **settings: Any
) -> ConfigDict:
    """A model on CIFAR-10 for so many epochs, with CIFAR-10-C, without rules.

    Args:
        model: a name of `jopt.models.CATALOG`.
        batch_size: images of a step.
        num_epochs: of the 45,000 training images.
        settings: of the model.
    """
    return _large("cifar10", 45_000, model, batch_size, num_epochs, settings)


def imagenet(
    model: str, batch_size: int, num_epochs: int, **settings: Any
) -> ConfigDict:
    """A model on ImageNet for so many epochs, without rules; arguments of `cifar10`."""
    config = _large("imagenet2012", 1_271_167, model, batch_size, num_epochs, settings)
    config.eval.corruptions = ()
    return config


def _large(
    data: str,
    examples: int,
    model: str,
    batch_size: int,
    num_epochs: int,
    settings: dict[str, Any],
) -> ConfigDict:
    shape = _shape_of(data)
    if model == "mlp":
        side, channels = shape.pop("image_size"), shape.pop("channels")
        shape["input_dim"] = side * side * channels
    config = _classification(data, {"name": model, **shape, **settings})
    config.data.augment = "crop_mirror"
    config.train.batch_size = batch_size
    config.train.steps = epochs(num_epochs, examples, batch_size)
    config.eval.update(batch_size=500, every_steps=2_000, corruptions=("all",))
    config.checkpoint.every_steps = 2_000
    config.monitor.every_steps = 0
    return config


def epochs(count: int, examples: int, batch_size: int) -> int:
    """Steps that read every example so often, the last batch of an epoch filled up.

    >>> epochs(200, 45_000, 256)
    35157
    """
    return -(-count * examples // batch_size)


def _classification(data: str, model: dict[str, Any]) -> ConfigDict:
    config = default_config()
    config.data.name = data
    config.objective.name = "classification"
    config.model = ConfigDict(model)
    return config


IMAGE_MODELS = ("mlp", "cnn", "resnet", "vit")


def _image_model(name: str, data: str) -> dict[str, Any]:
    """Every setting of a small model for a set of images."""
    from jopt import models

    shape = _shape_of(data)
    side, channels = shape["image_size"], shape["channels"]
    if name == "mlp":
        inputs = side * side * channels
        return dataclasses.asdict(models.MlpConfig(input_dim=inputs))
    made = {
        "cnn": lambda: models.CnnConfig(width=16, **shape),
        "resnet": lambda: models.ResnetConfig(**models.RESNETS["small"], **shape),
        "vit": lambda: models.VitConfig(
            patch_size=2 if side == 8 else 4, **models.VITS["small"], **shape
        ),
    }
    return dataclasses.asdict(made[name]())


def _shape_of(data: str) -> dict[str, Any]:
    from jopt.data import IMAGE_SETS

    (side, _, channels), classes = IMAGE_SETS[data].shape, IMAGE_SETS[data].num_classes
    return {"image_size": side, "channels": channels, "num_classes": classes}


# Steps; the headers of configs/*.py say what they reach.
_IMAGE_RUNS = {
    "digits": {"micro": 100, "tiny": 600},
    "mnist5k": {"micro": 100, "tiny": 400},
}

# What a size means besides the model: see the headers of configs/*.py for results.
_RUNS: dict[str, dict[str, Any]] = {
    "micro": {
        "data.seq_len": 128,
        "train.batch_size": 8,
        "train.steps": 500,
        "checkpoint.every_steps": 200,
    },
    "tiny": {
        "data.seq_len": 128,
        "train.batch_size": 8,
        "train.steps": 5500,
        "eval.every_steps": 1000,
        "checkpoint.every_steps": 1000,
    },
    "gpt2": {
        "data.seq_len": 1024,
        "train.batch_size": 64,
        "train.steps": 2000,
        "eval.every_steps": 200,
        "checkpoint.every_steps": 200,
    },
    "small": {
        "data.seq_len": 256,
        "train.batch_size": 8,
        "train.steps": 10000,
        "eval.every_steps": 1000,
        "checkpoint.every_steps": 1000,
    },
}
