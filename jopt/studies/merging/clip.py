"""How well the visual tower of a merged CLIP ViT-B/32 does on eight vision tasks.

For `search.evaluate` of `configs/full/merge_clip.py`, which says what is expected in
the folder `clip`. Ours has never seen the published weights or images: the function is
tested against NumPy on small ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data._cifar import open_prepared
from jopt.data._folders import open_folders
from jopt.data._imagenet import DecodedExamples, View
from jopt.data._pixels import Pixels
from jopt.errors import DataError
from jopt.models import VITS, Model, vit
from jopt.weights import open_weights

# N validation images; B batch; C classes; F features; D width; H heads; K head width.

FOLDER = Path("clip")
# Name of a task -> its name in TFDS; GTSRB is not a set of its own there.
TASKS = {
    "cars": "cars196",
    "dtd": "dtd",
    "eurosat": "eurosat/rgb",
    "gtsrb": "",
    "mnist": "mnist",
    "resisc45": "resisc45",
    "sun397": "sun397",
    "svhn": "svhn_cropped",
}
BATCH = 64
_SEED, _MOST = 0, 5000
_VIEW = View(
    224,
    "BICUBIC",
    Pixels(
        255.0,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
)


def validation_accuracies(params: Mapping[str, Any], state: Any) -> jax.Array:
    """Accuracy on a tenth of the training images of each task, at most 5,000, (T,).

    Fails: `DataError` where heads or images are missing.
    """
    del state
    tower = tower_params(params)
    return jnp.array([_accuracy(tower, task) for task in TASKS])


def tower_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `jopt.models.vit`, from the leaves that rules of torch names make.

    Patches (P, P, C, D), query, key and value (D, H, K) and out (H, K, D) are matrices
    there, the last four called q, k, v and o.
    """
    kernel = params["patches"]["kernel"]
    flat = jnp.reshape(kernel, (-1, kernel.shape[-1]))
    blocks = {
        number: {**block, "attn": _attention(block["attn"])}
        for number, block in params["blocks"].items()
    }
    return {**params, "patches": {"kernel": flat}, "blocks": blocks}


def _attention(layer: Mapping[str, Any]) -> dict[str, Any]:
    width = layer["out"]["bias"].shape[0]
    names = {"query": "q", "key": "k", "value": "v", "out": "o"}
    return {
        short: {
            "kernel": jnp.reshape(layer[name]["kernel"], (width, width)),
            "bias": jnp.reshape(layer[name]["bias"], -1),
        }
        for name, short in names.items()
    }


def _accuracy(tower: Mapping[str, Any], task: str) -> float:
    texts_CF = _texts(task)
    source = _images(task)
    chosen_N = np.random.RandomState(_SEED).permutation(len(source))
    chosen_N = chosen_N[: min(_MOST, max(1, len(source) // 10))]
    examples = DecodedExamples(source, 0, len(source), view=_VIEW)
    right = 0
    for start in range(0, len(chosen_N), BATCH):
        rows = examples.rows(chosen_N[start : start + BATCH])
        classes_B = _classes(tower, texts_CF, rows["inputs"])
        right += int(np.sum(np.asarray(classes_B) == rows["targets"]))
    return right / len(chosen_N)


@jax.jit
def _classes(
    tower: Mapping[str, Any], texts_CF: jax.Array, x_BHWC: jax.Array
) -> jax.Array:
    """The class whose text an image is most similar to; its own norm plays no part."""
    batch = {"inputs": x_BHWC}
    x_BF, _, _ = _model().apply(tower, {}, batch, key=None, train=False)
    return jnp.argmax(x_BF @ texts_CF.T, axis=-1)


@functools.cache
def _model() -> Model:
    return vit(VITS["clip_b32"])


def _texts(task: str) -> np.ndarray:
    """The unit text features of the classes of a task, (C, F)."""
    path = FOLDER / "heads" / f"{task}.safetensors"
    if not path.exists():
        raise DataError(
            f"{path} does not exist; text features of the classes of {task}, an array "
            "`weight` (classes, 512), are expected there"
        )
    weights = open_weights(path)
    try:
        return weights.read("weight")
    finally:
        weights.close()


def _images(task: str) -> Any:
    """Training images: in folders of classes, else prepared by TFDS."""
    folder = FOLDER / "images" / task
    if folder.exists() or not TASKS[task]:
        return open_folders(folder)
    return open_prepared(TASKS[task], "train", FOLDER / "tfds")
