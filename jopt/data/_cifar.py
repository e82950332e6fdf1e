"""CIFAR-10 and its corrupted test sets, prepared by TFDS beforehand.

Reading needs neither TensorFlow nor a network: the prepared files are array records.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from jopt.data._examples import Examples, ExampleSplits
from jopt.data._pixels import Pixels
from jopt.errors import ConfigError, DataError, check_choice

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# Means and deviations of the channels over the training images, as commonly used.
_PIXELS = Pixels(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

# The fifteen that the published mean is over, by their names in TFDS.
CIFAR_CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "frosted_glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic", "pixelate", "jpeg_compression"),
)

Folder = str | os.PathLike[str] | None


def load_cifar10(tfds_dir: Folder = None) -> ExampleSplits:
    """45,000 training, 5,000 validation and 10,000 test images, uint8 (N, 32, 32, 3).

    The validation images are the last tenth of the training images in their prepared
    order, which the files fix. Batches have each channel centred and divided by its
    deviation (`Examples.pixels`).

    Args:
        tfds_dir: where TFDS prepared `cifar10` with `file_format="array_record"`; by
            default where TFDS looks. TFDS downloads the images, and needs TensorFlow,
            when it prepares them, and neither afterwards.

    Fails: `DataError` where the images are not there or cannot be read; decoding needs
    pillow.
    """
    whole = _read("cifar10", "train", tfds_dir)
    cut = whole.size * 9 // 10
    return ExampleSplits(
        _part(whole, slice(0, cut)),
        _part(whole, slice(cut, None)),
        _read("cifar10", "test", tfds_dir),
    )


def load_cifar10_corrupted(
    name: str, severity: int, tfds_dir: Folder = None
) -> Examples:
    """The test images of CIFAR-10-C for one corruption: 10,000 images.

    Hendrycks and Dietterich, 2019, arXiv 1903.12261.

    Args:
        name: one of `CIFAR_CORRUPTIONS`.
        severity: 1 to 5.
        tfds_dir: as in `load_cifar10`, of `cifar10_corrupted/<name>_<severity>`.

    Fails: as `load_cifar10`, and `ConfigError` for an unknown name or severity.
    """
    check_choice("corruption", name, CIFAR_CORRUPTIONS)
    if severity not in range(1, 6):
        raise ConfigError(f"severity: expected 1 to 5, found {severity!r}")
    return _read(f"cifar10_corrupted/{name}_{severity}", "test", tfds_dir)


def open_prepared(dataset: str, split: str, tfds_dir: Folder) -> Any:
    """The records of a prepared set, decoded when they are asked for.

    Fails: `DataError` that says how to prepare it.
    """
    try:
        import tensorflow_datasets as tfds

        folder = None if tfds_dir is None else os.fspath(tfds_dir)
        source = tfds.data_source(dataset, split=split, data_dir=folder, download=False)
        np.asarray(source[0]["image"])  # decoding works
    # TFDS and what is below it raise anything from AssertionError to FileNotFoundError.
    except Exception as error:
        raise DataError(
            f"cannot read {dataset} through TFDS: {type(error).__name__}: {error}\n"
            "  prepare it once, where there are a network, tensorflow and pillow:\n"
            f"    tfds.builder({dataset!r}, data_dir=FOLDER, "
            'file_format="array_record").download_and_prepare()\n'
            "  and set data.tfds_dir to FOLDER; reading needs pillow only "
            "(pip install 'jopt[images]')"
        ) from error
    return source


def _read(dataset: str, split: str, tfds_dir: Folder) -> Examples:
    source = open_prepared(dataset, split, tfds_dir)
    records = [source[index] for index in range(len(source))]
    images = np.stack([np.asarray(record["image"], np.uint8) for record in records])
    return Examples(
        inputs=images,
        targets=np.array([record["label"] for record in records], np.int32),
        domains=np.zeros(len(images), np.int32),
        class_names=CIFAR_CLASSES,
        domain_names=("cifar10",),
        pixels=_PIXELS,
    )


def _part(examples: Examples, rows: slice) -> Examples:
    return Examples(
        examples.inputs[rows],
        examples.targets[rows],
        examples.domains[rows],
        examples.class_names,
        examples.domain_names,
        examples.pixels,
    )
