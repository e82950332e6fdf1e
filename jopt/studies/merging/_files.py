"""The models of a study as files, for `python -m jopt merge`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jopt.studies.merging._encoders import Encoder
from jopt.studies.merging._methods import accuracy_with
from jopt.studies.merging._sources import Sources, fine_tuned, make_world
from jopt.studies.merging._tasks import TASKS
from jopt.tree import named_leaves
from jopt.weights._safetensors import missing
from jopt.weights._weights import Leaf
from jopt.weights._write import new_weights

SEED = 0
FOLDER = "models"
# The source of this task is there twice, the second time with a long task vector.
LONG = "identity"


def write_sources(problem: str, steps: int, folder: Path) -> str:
    """Base, sources, and one source with a long vector: `.safetensors` of seed 0.

    Each file has the encoder and the heads of all tasks, which are frozen. What is
    there already is left as it is.

    Args:
        problem: a name of `PROBLEMS`.
        steps: of the fine-tuning.

    Returns: what there is to say.
    """
    if fault := missing():
        return f"no model files: {fault}"
    place, own = TASKS.index(LONG), Sources(problem=problem)
    world = make_world(SEED, problem, own.head)
    plain = fine_tuned(SEED, own, steps)
    long = fine_tuned(SEED, own._replace(long=place), steps)
    models = {
        "base": world.model.encoder,
        **{name: _of(plain, task) for task, name in enumerate(TASKS)},
        f"{LONG}_long": _of(long, place),
    }
    for name, encoder in models.items():
        path = folder / FOLDER / f"{name}.safetensors"
        if not path.exists():
            _write(path, {"encoder": encoder, "heads": world.model.heads})
    return f"{folder / FOLDER}: base and sources, for `python -m jopt merge`"


def _of(encoders: Encoder, task: int) -> Encoder:
    return jax.tree.map(lambda x: x[task], encoders)


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    arrays = {name: np.asarray(x) for name, x in named_leaves(tree).items()}
    leaves = {name: Leaf(x.shape, x.dtype) for name, x in arrays.items()}
    with new_weights(path, leaves, {"format": "flax"}) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def validation_accuracies(params: Mapping[str, Any], state: Any) -> jax.Array:
    """Accuracy of each task on the validation digits of the perceptron's files, (T,).

    For `search.evaluate` of `python -m jopt merge`.
    """
    del state
    world = make_world(SEED, "digits", "cosine")
    return accuracy_with(
        world.problem.architecture,
        params["heads"],
        world.splits.validation,
        params["encoder"],
        False,
    )
