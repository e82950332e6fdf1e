"""What the criteria say of every matrix of a model, at one state and over some batches.

A matrix is a weight, or one of those that lie in it: a layer of a stack, a block of a
fused output. Numbers are averaged over batches before ratios are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.criteria import (
    Curvature,
    Directions,
    GeometryStats,
    NoiseScale,
    SpecSignIndex,
    noise_scale,
    spec_sign_index,
    stable_rank_from_gram,
    tree_curvature,
    tree_directions,
    tree_stats,
)
from jopt.criteria._views import gram_stack, repeated
from jopt.matrix import MatrixSpec
from jopt.training._grams import choose_grams
from jopt.training._oracles import value_and_grad
from jopt.training._plan import Plan
from jopt.training._state import TrainState
from jopt.tree import named_leaves

# P matrices of a model.

CURVATURE_MODES = ("worst_case", "directional", "dimension")
Views = Mapping[str, MatrixSpec]


class Evidence(NamedTuple):
    """Means over batches; every array is (P,), in the order of `matrix_names`.

    Attributes:
        stats: signal and noise at the run's batch size.
        curvature: by mode; weights without a Gram matrix have `dimension` in each.
        stable_rank: of the activations; NaN without a Gram matrix.
    """

    stats: GeometryStats
    curvature: dict[str, Curvature]
    stable_rank: jax.Array

    @property
    def nuclear_rank(self) -> jax.Array:
        """(||G||_nuc / ||G||_F)^2 of the gradient; NaN where it is zero."""
        return (self.stats.s_nuc / self.stats.s_fro) ** 2

    def spec_sign(self, mode: str) -> SpecSignIndex:
        """The Spec-Sign index with the curvature of a mode, or `none`."""
        curvature = self.curvature.get(mode, Curvature(None, None))
        return spec_sign_index(self.stats, curvature)

    def noise_scales(self, batch: int) -> NoiseScale:
        """In examples, for statistics at a batch of so many."""
        return noise_scale(self.stats, batch)


def matrix_names(shapes: Mapping[str, tuple[int, ...]], views: Views) -> list[str]:
    """The matrices of all weights, `path` or `path[number]`.

    >>> view = MatrixSpec((0,), (1,))
    >>> matrix_names({"w": (2, 3), "v": (2, 2, 3)}, {"w": view, "v": view.stacked()})
    ['w', 'v[0]', 'v[1]']
    """
    names = []
    for path, spec in views.items():
        count = sum(stacked for stacked, _, _ in spec.blocks(shapes[path]))
        several = [f"{path}[{number}]" for number in range(count)]
        names += several if count > 1 else [path]
    return names


def measure(
    plan: Plan, views: Views, *, token_grams: bool
) -> tuple[Callable[..., tuple[Evidence, Directions]], dict[str, str]]:
    """The compiled measurement of one batch, and where each weight's curvature is from.

    The batch is halved (or taken in the run's microbatches, if their number is even)
    for the noise.

    Returns: `(params, model_state, batch, key) -> (Evidence, Directions)`, with the
    unit steps of both geometries as trees; and path -> `gram` or `dimension`.
    """
    example = plan.task.example_batch(plan.config)
    grams = choose_grams(plan.model, example, views, token_grams=token_grams)
    count = plan.config.train.accumulation
    oracle = value_and_grad(
        plan.task.objective(plan.model, taps=grams.taps),
        accumulation=count if count % 2 == 0 else 1,
        half_difference=True,
        grams=grams,
    )
    origins = {path: _origin(path in grams.weights) for path in views}

    @jax.jit
    def measured(
        params: Any, model_state: Any, batch: Any, key: jax.Array
    ) -> tuple[Evidence, Directions]:
        found, _ = oracle.apply({}, params, model_state, batch, key)
        directions = tree_directions(found.grads, views)
        stats = tree_stats(found.grads, found.half_difference, views)
        found_grams = found.activation_grams or {}
        curvature = {
            mode: _joined(
                tree_curvature(
                    found_grams,
                    found.grads,
                    views,
                    mode=mode,  # type: ignore[arg-type]
                    directions=directions if mode == "directional" else None,
                ),
                views,
            )
            for mode in CURVATURE_MODES
        }
        leaves = named_leaves(found.grads)
        evidence = Evidence(
            _joined(stats, views),
            curvature,
            _joined(_stable_ranks(found_grams, leaves, views), views),
        )
        return evidence, directions

    return measured, origins


def _origin(measured: bool) -> str:
    return "gram" if measured else "dimension"


def mean(found: Iterable[Evidence]) -> Evidence:
    """The mean over batches, on the host."""
    parts = list(found)
    return jax.tree.map(lambda *xs: np.mean(np.stack(xs), axis=0), *parts)


def measured_over(
    run: Callable[..., tuple[Evidence, Directions]],
    state: TrainState,
    batches: Iterable[Mapping[str, jax.Array]],
) -> Evidence:
    """The mean evidence of some batches."""
    found = []
    for number, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
        evidence, _ = run(state.params, state.model_state, batch, key)
        found.append(jax.device_get(evidence))
    return mean(found)


def _joined(by_path: Mapping[str, Any], views: Views) -> Any:
    """One array over all matrices in place of one for each weight."""
    parts = [by_path[path] for path in views]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _stable_ranks(
    grams: Mapping[str, jax.Array], leaves: Mapping[str, jax.Array], views: Views
) -> dict[str, jax.Array]:
    found = {}
    for path, spec in views.items():
        shape = leaves[path].shape
        if path in grams:
            stack = gram_stack(grams[path], shape, spec, where=path)
            found[path] = repeated(stable_rank_from_gram(stack), shape, spec)
        else:
            count = sum(stacked for stacked, _, _ in spec.blocks(shape))
            found[path] = jnp.full(count, jnp.nan)
    return found
