"""The TFDS builder of the digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jopt.data._digits import CLASSES, pixels, read_package, split
from jopt.data._examples import Examples, ExampleSplits
from jopt.data._local_builder import LocalBuilder, LocalInfo


class JoptDigits(LocalBuilder):
    """The digits of the package scikit-learn: one record a digit."""

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description="Handwritten digits, 8 x 8 pixels from 0 to 16.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "index": np.int64,
                }
            ),
        )

    def _splits(self) -> ExampleSplits:
        return split(read_package())

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, Any]]:
        images = pixels(examples).reshape(-1, 8, 8)
        for index, image in enumerate(images):
            label = int(examples.targets[index])
            yield index, {"image": image, "label": label, "index": index}
