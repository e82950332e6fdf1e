"""Other test sets for the classes of ImageNet, prepared by TFDS."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jopt.data._cifar import Folder, open_prepared
from jopt.data._examples import Labelled
from jopt.data._imagenet import DecodedExamples, label_names
from jopt.errors import DataError, check_choice


class Shift(NamedTuple):
    """Another test set for the classes of a training set.

    Attributes:
        examples: whose targets are places in `classes`.
        classes: int64 (K,), the training classes that a model chooses among; None where
            these are all.
    """

    examples: Labelled
    classes: np.ndarray | None


class _Published(NamedTuple):
    dataset: str  # in TFDS, with the split `test`
    classes: int | None  # that it has, where a model chooses among them alone


_SHIFTS = {
    "imagenet_v2": _Published("imagenet_v2/matched-frequency", None),
    "imagenet_a": _Published("imagenet_a", 200),
    "imagenet_r": _Published("imagenet_r", 200),
    "imagenet_sketch": _Published("imagenet_sketch", None),
}
IMAGENET_SHIFTS = tuple(_SHIFTS)


def load_imagenet_shift(
    name: str, class_names: Sequence[str], tfds_dir: Folder = None
) -> Shift:
    """One of `IMAGENET_SHIFTS`, 224 x 224 x 3 as `load_imagenet` has them.

        imagenet_v2      10,000 new images, the variant matched-frequency (Recht et al.,
                         2019, arXiv 1902.10811)
        imagenet_a       7,500 that a ResNet-50 misses, of 200 classes (Hendrycks et
                         al., 2021, arXiv 1907.07174)
        imagenet_r       30,000 renditions of 200 classes (Hendrycks et al., 2021, arXiv
                         2006.16241)
        imagenet_sketch  50,889 sketches (Wang et al., 2019, arXiv 1905.13549)

    A class is known by its name in TFDS, its WordNet id, there and in the training set.
    TFDS gives names for all 1000 classes of each set: the 200 of the second and third
    are those that its labels have, read once without the images.

    Args:
        name: of the set.
        class_names: of the training set, in the order of a model's outputs.
        tfds_dir: as in `load_cifar10`.

    Fails: as `load_cifar10`; `DataError` where the set has a class that the training
    set does not have, or another number of classes than published.
    """
    check_choice("shift", name, _SHIFTS)
    published = _SHIFTS[name]
    source = open_prepared(published.dataset, "test", tfds_dir)
    names = label_names(source)
    place_of = {label: place for place, label in enumerate(class_names)}
    unknown = [label for label in names if label not in place_of]
    if unknown:
        raise DataError(
            f"{published.dataset} has the class {unknown[0]!r}, and {len(unknown) - 1} "
            "more, which the training set does not have; prepare both with one "
            "version of TFDS"
        )
    class_of = np.array([place_of[label] for label in names])
    if published.classes is None:
        return Shift(_examples(source, name, class_names, class_of), None)
    classes = np.unique(class_of[_labels(source)])
    if len(classes) != published.classes:
        raise DataError(
            f"{published.dataset} has images of {len(classes)} classes, and "
            f"{published.classes} were published; prepare it again as a whole"
        )
    targets = np.searchsorted(classes, class_of)  # of classes without images: unused
    own_names = tuple(class_names[place] for place in classes)
    return Shift(_examples(source, name, own_names, targets), classes)


def _examples(
    source: Any, name: str, class_names: Sequence[str], targets: np.ndarray
) -> DecodedExamples:
    return DecodedExamples(
        source, 0, len(source), tuple(class_names), (name,), targets=targets
    )


def _labels(source: Any) -> np.ndarray:
    """The labels of all records; images are not decoded."""
    import tensorflow_datasets as tfds

    labelled = copy.copy(source)
    labelled.decoders = {"image": tfds.decode.SkipDecoding()}
    return np.array([int(labelled[i]["label"]) for i in range(len(labelled))])
