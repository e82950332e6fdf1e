"""A member of the SAM family, and what it makes of one gradient.

Direction, ascent, combination: the same three pieces behind the gradient oracle
(`sam_value_and_grad`), the adapter (`sharpness_aware`) and the training step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import check_choice
from jopt.linalg import widened
from jopt.transforms._ascent import AscentRule, climb, l2_ascent
from jopt.transforms._combine import Combined, CombineRule, perturbed
from jopt.transforms._sharpness_check import Fallback, raise_fallbacks
from jopt.transforms._skip import select
from jopt.transforms._varying import Axes, mean_over, on_all
from jopt.tree import PyTree, all_finite, global_norm, inner_product

# What is known of the last second gradient; kept at steps that have none.
PERTURBED = ("rho", "perturbed_grad_norm", "cosine", "perturbation_ratio")


class SharpnessState(NamedTuple):
    """State of a member of the family.

    Attributes:
        count: int32, gradients made so far.
        ascent_state, direction_state, combine_state: of the three pieces; `()` for
            most.
        metrics: float32 scalars of the last gradient.

            - `grad_norm`: ||g|| of the clean gradient.
            - `second_gradient`: 1 if there was one, else 0.
            - `fallbacks`: how many second gradients so far were not finite.
            - `rho`, `perturbed_grad_norm`, `cosine` of g and g^e, `perturbation_ratio`
              = ||fl(w + epsilon) - w|| / ||epsilon||, 1 where epsilon is 0: of the last
              finite second gradient.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax
    ascent_state: PyTree
    direction_state: PyTree
    combine_state: PyTree
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """A member of the family; every argument is one of its pieces.

    Attributes:
        ascent: the norm ball.
        combine: what becomes of both gradients.
        direction: what is climbed along, as a transformation of the clean gradient.
        perturb_dtype: of w + epsilon, at least; a wider dtype of w stays.
        fallback: of a second gradient that is not finite, see `sam_value_and_grad`.
    """

    ascent: AscentRule = dataclasses.field(default_factory=l2_ascent)
    combine: CombineRule = dataclasses.field(default_factory=perturbed)
    direction: optax.GradientTransformation = dataclasses.field(
        default_factory=optax.identity
    )
    perturb_dtype: jax.typing.DTypeLike = jnp.float32
    fallback: Fallback = "clean"

    def __post_init__(self) -> None:
        check_choice("fallback", self.fallback, get_args(Fallback))

    def init(self, params: PyTree) -> SharpnessState:
        """The state before the first gradient."""
        floating = floating_leaves(params, params)
        zero = jnp.zeros((), jnp.float32)
        names = ("grad_norm", "second_gradient", "fallbacks", *PERTURBED)
        return SharpnessState(
            jnp.zeros((), jnp.int32),
            self.ascent.init(floating),
            self.direction.init(floating),
            self.combine.init(floating),
            dict.fromkeys(names, zero) | {"perturbation_ratio": zero + 1},
        )

    def gradient(
        self,
        state: SharpnessState,
        params: PyTree,
        grads: PyTree,
        grad_at: Callable[[PyTree], PyTree],
        axes: Axes = (),
    ) -> Combined:
        """What replaces `grads`, at the parameters they were made at.

        Args:
            state: from before the step.
            params: w.
            grads: g, the clean gradient. None and leaves that are not floating are
                no part of it and stay.
            grad_at: the gradient of the same loss on the same examples elsewhere.
            axes: where gradients differ between devices (or groups), each climbs along
                its own; what is remembered and decided is what the mean says.

        Returns: `Combined`, with a `SharpnessState`. Gradients have the dtypes of
            `grads` and are this device's own.
        """
        params_in = floating_leaves(params, params)
        clean = jax.tree.map(widened, floating_leaves(params, grads))
        norm = mean_over(global_norm(clean), axes)
        direction, direction_state = self.direction.update(
            clean, state.direction_state, params_in
        )
        due, combine_state = self.combine.due(state.combine_state, state.count, norm)
        rho = self.ascent.radius(state.count)

        def with_second(_: None) -> Any:
            return self._second(
                state._replace(combine_state=combine_state),
                params,
                clean,
                direction,
                rho,
                grad_at,
                axes,
            )

        def without(_: None) -> Any:
            alone = self.combine.alone(clean, combine_state)
            kept = {name: state.metrics[name] for name in PERTURBED}
            zero = jnp.zeros((), jnp.float32)
            combined = Combined(alone, None, combine_state)
            return combined, state.ascent_state, kept, zero

        if due is True:
            made = with_second(None)
        else:
            made = jax.lax.cond(due, with_second, without, None)
        combined, ascent_state, figures, fell = made
        self._raise_if_known(fell)
        metrics = {
            "grad_norm": norm.astype(jnp.float32),
            "second_gradient": jnp.asarray(due, jnp.float32),
            "fallbacks": state.metrics["fallbacks"] + fell,
            **figures,
        }
        after = SharpnessState(
            optax.safe_increment(state.count),
            ascent_state,
            mean_over(direction_state, axes),
            combined.state,
            metrics,
        )
        return Combined(
            _like(combined.grads, grads), _like(combined.outside, grads), after
        )

    def _second(
        self,
        state: SharpnessState,
        params: PyTree,
        clean: PyTree,
        direction: PyTree,
        rho: jax.Array,
        grad_at: Callable[[PyTree], PyTree],
        axes: Axes,
    ) -> tuple[Combined, PyTree, dict[str, jax.Array], jax.Array]:
        """The second gradient and its use: with figures, and 1 if it was not finite."""
        # JAX's gradient by a complex number is the conjugate of the way up.
        upward = jax.tree.map(jnp.conj, direction)
        epsilon, ascent_state = self.ascent.ascend(
            upward, state.ascent_state, params, rho
        )
        moved = climb(params, epsilon, self.perturb_dtype)
        found = jax.tree.map(widened, floating_leaves(params, grad_at(moved)))
        finite = on_all(all_finite(found), axes)
        combined = self.combine.both(clean, found, state.combine_state)
        new_state = mean_over(combined.state, axes)
        grads, outside = combined.grads, combined.outside
        if self.fallback == "clean":
            grads = select(finite, grads, clean)
            if outside is not None:
                outside = jax.tree.map(lambda x: jnp.where(finite, x, 0), outside)
            new_state = select(finite, new_state, state.combine_state)
        if self.fallback == "raise":
            grads = jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan), grads)
        seen = mean_over(_figures(params, moved, epsilon, clean, found, rho), axes)
        old = {name: state.metrics[name] for name in PERTURBED}
        figures = select(finite, seen, old)
        fell = 1.0 - finite.astype(jnp.float32)
        return (
            Combined(grads, outside, new_state),
            mean_over(ascent_state, axes),
            figures,
            fell,
        )

    def _raise_if_known(self, fell: jax.Array) -> None:
        if self.fallback == "raise" and not isinstance(fell, jax.core.Tracer):
            raise_fallbacks(int(fell))


def _figures(
    params: PyTree,
    moved: PyTree,
    epsilon: PyTree,
    clean: PyTree,
    found: PyTree,
    rho: jax.Array,
) -> dict[str, jax.Array]:
    size, other = global_norm(clean), global_norm(found)
    # Sizes one at a time: their product may overflow.
    unit = inner_product(clean, found) / jnp.where(size != 0, size, 1)
    meant = global_norm(epsilon)
    weights = floating_leaves(params, params)
    made = jax.tree.map(
        lambda m, w: widened(m) - widened(w), floating_leaves(params, moved), weights
    )
    sound = jnp.where(meant != 0, meant, 1)
    figures = {
        "rho": rho,
        "perturbed_grad_norm": other,
        "cosine": unit / jnp.where(other != 0, other, 1),
        "perturbation_ratio": jnp.where(meant != 0, global_norm(made) / sound, 1),
    }
    return {name: x.astype(jnp.float32) for name, x in figures.items()}


def floating_leaves(params: PyTree, tree: PyTree) -> PyTree:
    """`tree` with None where a parameter is not floating, or where it had None.

    >>> floating_leaves({"a": 1.0, "n": 1}, {"a": "x", "n": "y"})
    {'a': 'x', 'n': None}
    """

    def keep(leaf: Any, weight: Any) -> Any:
        floating = jnp.issubdtype(jnp.asarray(weight).dtype, jnp.inexact)
        return leaf if floating else None

    return jax.tree.map(
        lambda leaf, weight: None if leaf is None else keep(leaf, weight),
        tree,
        params,
        is_leaf=lambda x: x is None,
    )


def _like(tree: PyTree, grads: PyTree) -> PyTree:
    """`tree` in the dtypes of `grads`, whose leaves stand where it has None."""
    if tree is None:
        return None
    return jax.tree.map(
        lambda g, x: g if x is None else x.astype(g.dtype),
        grads,
        tree,
        is_leaf=lambda x: x is None,
    )
