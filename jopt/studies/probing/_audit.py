"""Which geometry really lowers the loss more, one weight and one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.criteria import Directions
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.training._plan import Plan
from jopt.training._state import TrainState
from jopt.tree import map_named, named_leaves

# P matrices of a model; G = 2 geometries, sign and spectral; R relative sizes.

Views = Mapping[str, MatrixSpec]
# RMS of a step over that of the weight, or over 1 / sqrt(fan-in) where that is larger.
SIZES = tuple(2.0**-k for k in range(1, 12))


class Gains(NamedTuple):
    """How much the best step of each geometry lowers the loss, float64 (P,) each.

    Attributes:
        sign, spectral: on data that chose neither direction nor size; can be negative.
        gap_error: standard error of their difference over the batches that judge, of
            which all saw the same directions.
        sign_size, spectral_size: relative sizes that were chosen, means over the
            choices; 0 where no step helped.
    """

    sign: np.ndarray
    spectral: np.ndarray
    gap_error: np.ndarray
    sign_size: np.ndarray
    spectral_size: np.ndarray


def make_losses(plan: Plan, views: Views) -> Callable[..., jax.Array]:
    """The losses after moving one matrix at a time, compiled.

    Returns: `(params, model_state, directions, sizes_PG, batch) -> losses_PG`, the loss
    with matrix p alone moved against direction g of that relative size. Model in
    evaluation mode. Candidates are taken one after the other, each a forward pass and
    two additions to the parameters, so memory is that of one.
    """
    objective = plan.task.objective(plan.model, train=False)

    @jax.jit
    def losses(
        params: Any,
        model_state: Any,
        directions: Directions,
        sizes_PG: jax.Array,
        batch: Mapping[str, jax.Array],
    ) -> jax.Array:
        steps = [_relative(tree, params, views) for tree in directions]

        def loss(place: jax.Array) -> jax.Array:
            alone_PG = (
                jnp.zeros_like(sizes_PG)
                .reshape(-1)
                .at[place]
                .set(sizes_PG.reshape(-1)[place])
            )
            sizes_GP = alone_PG.reshape(sizes_PG.shape).T
            moved = params
            for step, sizes_P in zip(steps, sizes_GP, strict=True):
                moved = _moved(moved, step, sizes_P, views)
            return objective(moved, model_state, batch, None)[0]

        found = jax.lax.map(loss, jnp.arange(sizes_PG.size))
        return found.reshape(sizes_PG.shape)

    return losses


def loss_table(
    losses: Callable[..., jax.Array],
    state: TrainState,
    directions: Directions,
    batches: Iterable[Mapping[str, jax.Array]],
    *,
    matrices: int,
    sizes: Sequence[float] = SIZES,
) -> np.ndarray:
    """The loss on each batch after a step of each size, float64 (H, R + 1, P, G).

    Size 0, no step, comes first. A loss that is no number counts as infinite.
    Cost: 2 P (R + 1) forward passes for each batch.
    """
    shape = (matrices, len(directions))
    found = [
        [
            losses(
                state.params,
                state.model_state,
                directions,
                jnp.full(shape, size, jnp.float32),
                batch,
            )
            for size in (0.0, *sizes)
        ]
        for batch in batches
    ]
    table = np.asarray(jax.device_get(found), np.float64)
    return np.where(np.isnan(table), np.inf, table)


def gains_on_other_data(
    tables: Sequence[np.ndarray], sizes: Sequence[float] = SIZES
) -> Gains:
    """The gain of the step size that is best in expectation, which a rule is about.

    Half of the batches choose one size for all directions, the other half judges it;
    then the halves change places, and the gain is the mean of both.

    Args:
        tables: of each direction, `loss_table` on H >= 2 batches that have no part in
            any of them.
    """
    table = np.mean(tables, axis=0)  # (H, R + 1, P, G)
    halves = table[::2], table[1::2]
    found = [
        _judged(chooses.mean(0), judges, sizes)
        for chooses, judges in (halves, halves[::-1])
    ]
    gain_HPG = np.concatenate([gain for gain, _ in found])
    return _summary(gain_HPG, np.mean([size for _, size in found], axis=0))


def gains_on_own_data(
    own: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    sizes: Sequence[float] = SIZES,
) -> Gains:
    """The gain of the step size that is best on the batch the direction is from.

    Where noise dominates, that size fits the noise: the step is too long, the more so
    the closer a geometry fits its batch.

    Args:
        own: of each direction, `loss_table` on its own batch, H = 1.
        tables: likewise on other batches, which judge.
    """
    pairs = zip(own, tables, strict=True)
    found = [_judged(o.mean(0), t, sizes) for o, t in pairs]
    gain_HPG, size_PG = (np.mean(part, axis=0) for part in zip(*found, strict=True))
    return _summary(gain_HPG, size_PG)


def _judged(
    chooses: np.ndarray, judges: np.ndarray, sizes: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The decreases in some tables (H, R + 1, P, G) at the lowest places of another.

    And the sizes there, (P, G).
    """
    best_PG = chooses.argmin(axis=0)
    lowest = np.take_along_axis(judges, best_PG[None, None], axis=1)[:, 0]
    return judges[:, 0] - lowest, np.array([0.0, *sizes])[best_PG]


def _summary(gain_HPG: np.ndarray, size_PG: np.ndarray) -> Gains:
    gap_HP = gain_HPG[..., 1] - gain_HPG[..., 0]
    error_P = gap_HP.std(axis=0, ddof=1) / len(gap_HP) ** 0.5
    sign, spectral = gain_HPG.mean(axis=0).T
    sign_size, spectral_size = size_PG.T
    return Gains(sign, spectral, error_P, sign_size, spectral_size)


def _relative(directions: Any, params: Any, views: Views) -> dict[str, Any]:
    """path -> stacks of steps of relative size 1; zero where a direction is."""
    leaves = named_leaves(params)
    found = {}
    for path, d in named_leaves(directions).items():
        if path not in views:
            continue
        pairs = zip(
            matrices(d, views[path]), matrices(leaves[path], views[path]), strict=True
        )
        found[path] = tuple(_sized(*pair) for pair in pairs)
    return found


def _sized(d_SMN: jax.Array, w_SMN: jax.Array) -> jax.Array:
    """The direction with the RMS of the weight, or of one that keeps unit inputs."""

    def rms(x_SMN: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.mean(jnp.square(x_SMN), axis=(1, 2), keepdims=True))

    own, wanted = rms(d_SMN), jnp.maximum(rms(w_SMN), d_SMN.shape[1] ** -0.5)
    return d_SMN * wanted / jnp.where(own == 0, 1, own)


def _moved(
    params: Any, steps: Mapping[str, Any], sizes_P: jax.Array, views: Views
) -> Any:
    """W - size D of every matrix."""
    first = {}
    place = 0
    for path in views:
        first[path] = place
        place += sum(len(stack) for stack in steps[path])

    def move(path: str, leaf: jax.Array) -> jax.Array:
        if path not in views:
            return leaf
        at, scaled = first[path], []
        for stack in steps[path]:
            scaled.append(stack * sizes_P[at : at + len(stack), None, None])
            at += len(stack)
        return leaf - assemble(scaled, views[path], leaf.shape).astype(leaf.dtype)

    return map_named(move, params)
