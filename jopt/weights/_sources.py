"""The files of a merge, opened together, and what is merged of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.merging import stack, task_vector
from jopt.weights._layout import STATE, NamedWeights, plain_layout
from jopt.weights._names import torch_layout
from jopt.weights._open import open_weights
from jopt.weights._safetensors import SafetensorsWeights
from jopt.weights._settings import Settings, Task

# T tasks.


class Sources(NamedTuple):
    """The base and the models of a merge.

    Attributes:
        base: theta_0.
        models: one for each task.
        tasks: what the config says of them.
        merged: the leaves that are merged, in the order of JAX's paths.
        state: leaves of `batch_stats`.
        skipped: leaves that not all have in one shape (`strict` is off).
        left_out: what the files hold that is neither parameters nor statistics.
    """

    base: NamedWeights
    models: tuple[NamedWeights, ...]
    tasks: tuple[Task, ...]
    merged: tuple[str, ...]
    state: tuple[str, ...]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...]

    def vectors(self, leaf: str) -> tuple[np.ndarray, jax.Array]:
        """One leaf of the base, and its task vectors (T, ...).

        Fails: `ConfigError` with the model and the path where a vector is not finite.
        """
        base = self.base.read(leaf)
        vectors = []
        for task, model in zip(self.tasks, self.models, strict=True):
            try:
                vectors.append(task_vector({leaf: base}, {leaf: model.read(leaf)}))
            except ConfigError as error:
                raise ConfigError(f"{task.name} ({task.path}): {error}") from None
        return base, stack(vectors)[leaf]

    def entries(self) -> int:
        """How many numbers are merged."""
        return sum(self.base.leaves[leaf].size for leaf in self.merged)

    def largest(self) -> int:
        """Bytes of the largest leaf, in float32 at least."""
        return max(
            (self.base.leaves[x].size * self.wide(x).itemsize for x in self.merged),
            default=0,
        )

    def wide(self, leaf: str) -> np.dtype:
        """The type in which a leaf is merged."""
        kinds = [weights.leaves[leaf].dtype for weights in (self.base, *self.models)]
        with jax.enable_x64(True):
            return np.dtype(jnp.result_type(jnp.float32, *kinds))

    def needs_x64(self) -> bool:
        """Whether a merged leaf has 64 bits, which JAX must be told to keep."""
        return any(
            np.finfo(self.wide(leaf)).dtype == np.float64 for leaf in self.merged
        )


@contextmanager
def opened(settings: Settings) -> Iterator[Sources]:
    """Opens all files, finds out what is merged, and closes them in the end.

    Fails: `ConfigError` for trees that do not match, with the model and the paths.
    """
    with ExitStack() as stack:
        left_out: list[str] = []
        named = [
            _open(settings, path, stack, left_out)
            for path in (settings.base, *(task.path for task in settings.tasks))
        ]
        base, models = named[0], tuple(named[1:])
        if settings.rules and not any(_is_torch(x) for x in named):
            raise ConfigError(
                "names holds rules for .safetensors files of torch, and there is none "
                "among base and models"
            )
        state = tuple(leaf for leaf in base.leaves if leaf.startswith(STATE))
        _check_state(settings, state)
        chosen = [leaf for leaf in base.leaves if _is_merged(settings, base, leaf)]
        wanted = [*chosen, *(state if settings.batch_stats == "average" else ())]
        differences = _differences(settings, base, models, wanted)
        if differences and settings.strict:
            raise ConfigError(_mismatch(settings, differences))
        skipped = {leaf for _, leaf, _ in differences}
        merged = tuple(leaf for leaf in chosen if leaf not in skipped)
        if not merged:
            raise ConfigError(
                f"no leaf is merged of {len(base.leaves)}: where {settings.where}, "
                f"keep_base {settings.keep_base}"
            )
        yield Sources(
            base,
            models,
            settings.tasks,
            merged,
            tuple(leaf for leaf in state if leaf not in skipped),
            tuple(sorted(skipped)),
            tuple(left_out),
        )


def _open(
    settings: Settings, path: Any, stack: ExitStack, left_out: list[str]
) -> NamedWeights:
    weights = open_weights(path)
    stack.callback(weights.close)
    if settings.rules and isinstance(weights, SafetensorsWeights):
        return NamedWeights(weights, torch_layout(weights.leaves, settings.rules))
    plain = plain_layout(weights.leaves)
    tops = dict.fromkeys(name.partition("/")[0] for name in plain.left_out)
    left_out += [f"{name} of {path}" for name in tops]
    return NamedWeights(weights, plain.pieces)


def _is_torch(named: NamedWeights) -> bool:
    return isinstance(named.weights, SafetensorsWeights)


def _is_merged(settings: Settings, weights: NamedWeights, leaf: str) -> bool:
    inexact = jnp.issubdtype(weights.leaves[leaf].dtype, jnp.inexact)
    return inexact and not leaf.startswith(STATE) and settings.is_merged(leaf)


def _check_state(settings: Settings, state: Sequence[str]) -> None:
    if state and settings.batch_stats == "error":
        raise ConfigError(
            f"{settings.base} has running statistics ({state[0]} and "
            f"{len(state) - 1} more), and a merged network has others; set batch_stats "
            "to base or average, and recompute them afterwards on data"
        )


def _differences(
    settings: Settings,
    base: NamedWeights,
    models: Sequence[NamedWeights],
    wanted: Sequence[str],
) -> list[tuple[Task, str, str]]:
    """(task, leaf, what differs) for all leaves that should be merged and cannot be."""
    found = []
    for task, model in zip(settings.tasks, models, strict=True):
        for leaf in wanted:
            shape = base.leaves[leaf].shape
            if leaf not in model.leaves:
                found.append((task, leaf, f"{leaf} {shape} is only in the base"))
            elif model.leaves[leaf].shape != shape:
                theirs = model.leaves[leaf].shape
                found.append((task, leaf, f"{leaf} is {theirs}, in the base {shape}"))
        for leaf in model.leaves.keys() - base.leaves.keys():
            if _is_merged(settings, model, leaf):
                shape = model.leaves[leaf].shape
                found.append((task, leaf, f"{leaf} {shape} is not in the base"))
    return found


def _mismatch(settings: Settings, differences: Sequence[tuple[Task, str, str]]) -> str:
    lines = [f"{task.path}: {text}" for task, _, text in differences[:12]]
    more = len(differences) - len(lines)
    lines += [f"and {more} more"] if more else []
    return (
        f"these models do not match the base {settings.base}:\n  "
        + "\n  ".join(lines)
        + "\n  leave heads out by keep_base, or set strict to False to merge what they "
        "have in common"
    )
