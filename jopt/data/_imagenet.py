"""ImageNet and its corrupted test sets, prepared by TFDS, decoded as they are read."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jopt.data._cifar import Folder, open_prepared
from jopt.data._examples import ExampleSplits
from jopt.data._pixels import Pixels
from jopt.errors import ConfigError, check_choice

IMAGENET_SIDE = 224


class View(NamedTuple):
    """What a model sees of an image of any size.

    Attributes:
        shorter_side: to which the image is resized.
        resampling: how, by its name in pillow.
        pixels: how the middle, 224 x 224, becomes inputs.
    """

    shorter_side: int
    resampling: str
    pixels: Pixels


# Means and deviations of the channels, as commonly used.
_IMAGENET = View(
    256, "BILINEAR", Pixels(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
_VALIDATION = 10_000

IMAGENET_CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedExamples:
    """A part of a prepared set whose images are decoded when they are asked for.

    A batch is decoded by several threads.

    Attributes:
        source: TFDS records with `image` and `label`.
        first, size: which of them.
        view: of an image.
        targets: of each label of the records; None where a label is its target.
    """

    source: Any
    first: int
    size: int
    class_names: tuple[str, ...] = tuple(map(str, range(1000)))
    domain_names: tuple[str, ...] = ("imagenet2012",)
    view: View = _IMAGENET
    targets: np.ndarray | None = None

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Examples.rows`."""
        places = [self.first + int(index) for index in index_B]
        records = list(_threads().map(self._record, places))
        images = np.stack([image for image, _ in records])
        images = images if change is None else change(images)
        return {
            "inputs": self.view.pixels.normed(images),
            "targets": self._targets([label for _, label in records]),
            "mask": np.ones(len(records), np.float32),
            "domain": np.zeros(len(records), np.int32),
        }

    def _targets(self, labels: list[int]) -> np.ndarray:
        found = labels if self.targets is None else self.targets[labels]
        return np.asarray(found, np.int32)

    def _record(self, place: int) -> tuple[np.ndarray, int]:
        record = self.source[place]
        image = np.asarray(record["image"], np.uint8)
        return middle(image, self.view), int(record["label"])


def load_imagenet(tfds_dir: Folder = None) -> ExampleSplits[DecodedExamples]:
    """1,271,167 training, 10,000 validation and 50,000 test images, 224 x 224 x 3.

    The test images are those published as validation, ours the last of the training
    images in their prepared order. Names of classes are those of TFDS, WordNet ids. A
    random part of a random size, the usual augmentation, is not offered.

    Args:
        tfds_dir: where TFDS prepared `imagenet2012`, as in `load_cifar10`.

    Fails: `DataError` where the images are not there.
    """
    train = open_prepared("imagenet2012", "train", tfds_dir)
    held_out = min(_VALIDATION, len(train) // 10)
    cut = len(train) - held_out
    test = open_prepared("imagenet2012", "validation", tfds_dir)
    names = label_names(train)
    return ExampleSplits(
        DecodedExamples(train, 0, cut, names),
        DecodedExamples(train, cut, held_out, names),
        DecodedExamples(test, 0, len(test), names),
    )


def label_names(source: Any) -> tuple[str, ...]:
    """The names of the labels of a prepared set, in their order."""
    return tuple(source.dataset_info.features["label"].names)


def load_imagenet_corrupted(
    name: str, severity: int, tfds_dir: Folder = None
) -> DecodedExamples:
    """The 50,000 images of ImageNet-C for one corruption.

    Hendrycks and Dietterich, 2019, arXiv 1903.12261. Arguments and failures as in
    `load_cifar10_corrupted`.
    """
    check_choice("corruption", name, IMAGENET_CORRUPTIONS)
    if severity not in range(1, 6):
        raise ConfigError(f"severity: expected 1 to 5, found {severity!r}")
    dataset = f"imagenet2012_corrupted/{name}_{severity}"
    source = open_prepared(dataset, "validation", tfds_dir)
    return DecodedExamples(source, 0, len(source))


def middle(image: np.ndarray, view: View = _IMAGENET) -> np.ndarray:
    """uint8 (224, 224, 3) from an image of any size, in colours or grey (H, W, 1).

    >>> middle(np.full((300, 400, 3), 7, np.uint8)).shape
    (224, 224, 3)
    """
    from PIL import Image

    height, width = image.shape[:2]
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    scale = view.shorter_side / min(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    how = Image.Resampling[view.resampling]
    resized = Image.fromarray(image).resize(size, how)
    left, top = ((length - IMAGENET_SIDE) // 2 for length in size)
    box = (left, top, left + IMAGENET_SIDE, top + IMAGENET_SIDE)
    return np.asarray(resized.crop(box))


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="decode")
