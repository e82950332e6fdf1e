"""One step of SA-SAM: which gradients are taken where, and what follows from them."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jopt.transforms import AscentRule, GradFn, climb, select
from jopt.transforms._gradient_pairs import (
    Smoothness,
    distance,
    scalar_dtype,
    smoothness_of,
    widened_tree,
)
from jopt.transforms._local_smoothness import neutral_ratio, step_size_metrics
from jopt.transforms._step_rules import (
    StepRule,
    StepSize,
    inverse_smoothness,
    next_step_size,
)
from jopt.tree import PyTree, all_finite

Variant: TypeAlias = Literal["paper", "released"]


class VariantDefaults(NamedTuple):
    """How a variant begins, and what an argument that is None stands for.

    Attributes:
        gamma, delta, eps, lag_rho: as in `sa_sam`.
        as_adgd: step 0 has the initial size, and step 1 no limit to its growth.
    """

    gamma: float
    delta: float
    eps: float
    lag_rho: bool
    as_adgd: bool

    def rule(
        self, gamma: ArrayLike | None, delta: ArrayLike | None, eps: ArrayLike | None
    ) -> StepRule:
        """The step rule of the variant, with what is not None instead.

        >>> DEFAULTS["released"].rule(None, 0.1, None).delta
        0.1
        """
        return StepRule(
            offset=1.0,
            delta=self.delta if delta is None else delta,
            bound=inverse_smoothness((self.gamma if gamma is None else gamma) / 2),
            ratio=1.0,
            eps=self.eps if eps is None else eps,
            uncapped=self.as_adgd,
            held=self.as_adgd,
        )


DEFAULTS: dict[Variant, VariantDefaults] = {
    "paper": VariantDefaults(1.0, 1.0, 0.0, lag_rho=False, as_adgd=True),
    "released": VariantDefaults(2.0, 0.02, 1e-8, lag_rho=True, as_adgd=False),
}


class SASAMState(NamedTuple):
    """State of `sa_sam`.

    Attributes:
        count, step_size, ratio, smoothness, skipped: as in `LocalSmoothnessState`;
            `skipped` also counts perturbed gradients that were not finite.
        rho: the radius of the last update.
        prev_params: the parameters of the last finite update, in at least float32; `()`
            with `smoothness="perturbation"`.
        ascent_state: of the ascent rule.
    """

    count: jax.Array  # type: ignore[assignment]  # Optax's name, and a tuple's method
    step_size: jax.Array
    ratio: jax.Array
    rho: jax.Array
    smoothness: jax.Array
    prev_params: PyTree
    skipped: jax.Array
    ascent_state: PyTree

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What a training step reports."""
        return step_size_metrics(self) | {"rho": self.rho.astype(jnp.float32)}


class Climbed(NamedTuple):
    """Where an ascent led: the radius, the rule's state, the point, its gradient."""

    rho: jax.Array
    ascent_state: PyTree
    point: PyTree
    grads: PyTree


@dataclasses.dataclass(frozen=True)
class SASAMStep:
    """SA-SAM without its descent; arguments as in `sa_sam`.

    Attributes:
        rule, limits: of the step size.
        rho_scale, rho_max: of the radius.
        lagged: the radius follows the step size before.
        along_path: the pair is that of this step and the one before, not SAM's own.
        ascent: where to climb.
    """

    rule: StepRule
    limits: tuple[ArrayLike, ArrayLike]
    rho_scale: ArrayLike
    rho_max: ArrayLike
    lagged: bool
    along_path: bool
    ascent: AscentRule

    def init(self, params: PyTree, init_step_size: ArrayLike) -> SASAMState:
        """The state before the first step."""
        dtype = scalar_dtype(params)
        # Copies: parameters and state may both be given away to one program.
        copies = jax.tree.map(jnp.copy, widened_tree(params))
        return SASAMState(
            count=jnp.zeros((), jnp.int32),
            step_size=jnp.asarray(init_step_size, dtype),
            ratio=jnp.asarray(self.rule.ratio, dtype),
            rho=jnp.zeros((), dtype),
            smoothness=jnp.zeros((), dtype),
            prev_params=copies if self.along_path else (),
            skipped=jnp.zeros((), jnp.int32),
            ascent_state=self.ascent.init(params),
        )

    def update(
        self, grads: PyTree, gradient: GradFn, state: SASAMState, params: PyTree
    ) -> tuple[PyTree, SASAMState]:
        """The perturbed gradient, or `grads` where it is not finite, and the state."""

        def climb_by(step_size: jax.Array) -> Climbed:
            return self._climb(grads, gradient, state, params, step_size)

        if self.along_path:
            before = gradient(optax.tree.cast_like(state.prev_params, params))
            moved = distance(params, state.prev_params)
            pair = smoothness_of(moved, distance(grads, before))
            pair = pair._replace(usable=pair.usable & (state.count > 0))
            size = self._step_size(state, pair)
            climbed = climb_by(state.step_size if self.lagged else size.step_size)
        elif self.lagged:
            climbed = climb_by(state.step_size)
            pair = _own_pair(climbed, grads, params)
            size = self._step_size(state, pair)
        else:
            last, known = state.smoothness, all_finite(grads)
            size = self._step_size(state, Smoothness(last, last > 0, known))
            climbed = climb_by(size.step_size)
            pair = _own_pair(climbed, grads, params)

        sound = all_finite(climbed.grads)
        neutral = neutral_ratio(state.count, size.ratio)
        value = pair.value.astype(state.smoothness.dtype)
        new = SASAMState(
            count=optax.safe_increment(state.count),
            step_size=size.step_size,
            ratio=jnp.where(sound, size.ratio, neutral),
            rho=climbed.rho,
            smoothness=jnp.where(pair.usable, value, state.smoothness),
            prev_params=widened_tree(params) if self.along_path else (),
            skipped=state.skipped + jnp.where(sound, 0, 1),
            ascent_state=climbed.ascent_state,
        )
        left_out = state._replace(
            step_size=size.step_size,
            ratio=neutral,
            rho=climbed.rho,
            skipped=optax.safe_increment(state.skipped),
        )
        flat = optax.tree.cast_like(grads, climbed.grads)
        direction = select(sound, climbed.grads, flat)
        return direction, select(pair.finite, new, left_out)

    def _step_size(self, state: SASAMState, pair: Smoothness) -> StepSize:
        last = StepSize(state.step_size, state.ratio)
        value = pair.value.astype(last.step_size.dtype)
        size = next_step_size(
            self.rule, state.count, last, value, pair.usable, self.limits
        )
        kept = last._replace(ratio=neutral_ratio(state.count, last.ratio))
        return select(pair.finite, size, kept)

    def _climb(
        self,
        grads: PyTree,
        gradient: GradFn,
        state: SASAMState,
        params: PyTree,
        step_size: jax.Array,
    ) -> Climbed:
        rho = jnp.minimum(self.rho_scale * jnp.sqrt(step_size), self.rho_max)
        rho = rho.astype(state.rho.dtype)
        epsilon, own = self.ascent.ascend(grads, state.ascent_state, params, rho)
        point = climb(params, epsilon)
        return Climbed(rho, own, point, gradient(point))


def _own_pair(climbed: Climbed, grads: PyTree, params: PyTree) -> Smoothness:
    """Of the perturbation: what was really added, and what it did to the gradient."""
    moved = distance(climbed.point, params)
    return smoothness_of(moved, distance(climbed.grads, grads))
