"""What is merged in a study: images, an encoder, and how it is trained at first."""

from __future__ import annotations

from typing import NamedTuple

from jopt.studies.merging._encoders import PERCEPTRON, VIT, Architecture
from jopt.studies.merging._tasks import LARGE, SMALL, Images


class Problem(NamedTuple):
    """Eight tasks and a model of them.

    Attributes:
        images: that all tasks see.
        architecture: of the encoder.
        pretraining_steps, pretraining_rate: on all tasks at once.
        rate: of the fine-tuning, Adam.
        long_rate: of the fine-tuning that makes a long task vector.
    """

    images: Images
    architecture: Architecture
    pretraining_steps: int
    pretraining_rate: float
    rate: float
    long_rate: float


_VIT = Problem(LARGE, VIT, 30, 1e-3, 4e-4, 2.4e-3)
PROBLEMS = {
    "digits": Problem(SMALL, PERCEPTRON, 15, 1e-3, 1e-3, 2e-2),
    "vit": _VIT,
    "vit_smoke": _VIT._replace(pretraining_steps=4),
}
