"""What is measured of sources and of a merged model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.linalg import nuclear_rank, stable_rank
from jopt.merging import cosine_matrix, task_norms
from jopt.merging._matrices import task_matrices, task_specs
from jopt.objectives import calibration
from jopt.studies.merging._encoders import Architecture, Encode, Encoder
from jopt.studies.merging._methods import Merged
from jopt.studies.merging._model import accuracies, mean_entropy, task_logits
from jopt.studies.merging._sources import World
from jopt.studies.merging._tasks import Split
from jopt.tree import PyTree, named_leaves

# T tasks; N examples; C classes.


def of_sources(world: World, stacked: PyTree, encoders: Encoder) -> dict[str, Any]:
    """Accuracy and entropy on their own tasks; size and shape of the vectors.

    Ranks are means over the matrices of all tasks.
    """
    norms_T = np.asarray(task_norms(stacked))
    cosines_TT = np.asarray(cosine_matrix(stacked))
    beside = cosines_TT[~np.eye(len(cosines_TT), dtype=bool)]
    architecture = world.problem.architecture
    found = _judged_in(world, encoders, own=True)
    return {
        "source_accuracy": np.mean(found["accuracy_T"]),
        "source_lowest": np.min(found["accuracy_T"]),
        "source_entropy": found["entropy"],
        "norm": np.mean(norms_T),
        "norm_ratio": np.max(norms_T) / np.median(norms_T),
        "cosine": np.mean(beside),
        "stable_rank": _mean_of_matrices(stable_rank, architecture, stacked),
        "nuclear_rank": _mean_of_matrices(nuclear_rank, architecture, stacked),
    }


def of_merged(world: World, model: Merged, reference_T: np.ndarray) -> dict[str, Any]:
    """Absolute and normalised test accuracy, confidence, and calibration.

    The temperature is fitted to the validation examples of all tasks.

    Args:
        reference_T: test accuracies of the sources.
    """
    found = _judged_in(world, model.encoder, own=model.own)
    accuracy_T = np.asarray(found.pop("accuracy_T"))
    return {
        "scale": model.scale,
        "absolute": np.mean(accuracy_T),
        "normalised": np.mean(accuracy_T / reference_T),
        **found,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_of_matrices(
    fn: Callable[[jax.Array], jax.Array], architecture: Architecture, stacked: PyTree
) -> Any:
    leaves = named_leaves(stacked)
    ranks = [
        fn(x_STMN)
        for path, spec in task_specs(stacked, architecture.matrix_specs()).items()
        for x_STMN in task_matrices(leaves[path], spec)
    ]
    return jnp.mean(jnp.concatenate(ranks))


def _judged_in(world: World, encoder: Encoder, *, own: bool) -> dict[str, jax.Array]:
    encode = world.problem.architecture.encode
    return _judged(encode, world.model.heads, *world.splits[2:], encoder, own)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _judged(
    encode: Encode,
    heads: PyTree,
    validation: Split,
    test: Split,
    encoder: Encoder,
    own: bool,
) -> dict[str, jax.Array]:
    fitted, fitted_targets = _pooled(
        task_logits(encode, encoder, heads, validation.inputs, own=own), validation
    )
    z_TNC = task_logits(encode, encoder, heads, test.inputs, own=own)
    flat_NC, targets_N = _pooled(z_TNC, test)
    temperature = calibration.fit_temperature(fitted, fitted_targets)
    p_NC = jax.nn.softmax(flat_NC)
    return {
        "accuracy_T": accuracies(z_TNC, test.targets),
        "entropy": jnp.mean(mean_entropy(z_TNC)),
        "confidence": jnp.mean(jnp.max(p_NC, axis=-1)),
        "temperature": temperature,
        "ece": calibration.ece(p_NC, targets_N),
        "ece_scaled": calibration.ece(jax.nn.softmax(flat_NC / temperature), targets_N),
    }


def _pooled(z_TNC: jax.Array, split: Split) -> tuple[jax.Array, jax.Array]:
    """Logits and classes of all tasks as one set."""
    tasks, examples, classes = z_TNC.shape
    targets_TN = jnp.broadcast_to(split.targets, (tasks, examples))
    return z_TNC.reshape(-1, classes), targets_TN.reshape(-1)
