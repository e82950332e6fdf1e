"""Averages of gradients, and the direction that a geometry receives from them.

Everything is computed in float32 or wider and rounded only where it is stored, so a
direction is exact in sign and scale even when gradients and buffers are bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ShapeError, check_choice
from jopt.linalg import widened
from jopt.tree import PyTree, named_leaves

Scalar = jax.typing.ArrayLike


class MomentumState(NamedTuple):
    """The average, shaped like the parameters, and what a schedule needs.

    Attributes:
        mu: the average.
        step: how many were taken, int32; None where the decay is no schedule.
    """

    mu: PyTree
    step: jax.Array | None = None


class Momentum(NamedTuple):
    """A momentum rule, to be followed by a geometry (`steepest_descent`).

    Attributes:
        init: parameters -> state, a named tuple such as `MomentumState`.
        update: (gradients, state) -> (direction in float32 or wider, state).
    """

    init: Callable[[PyTree], Any]
    update: Callable[[PyTree, Any], tuple[PyTree, Any]]


def no_momentum() -> Momentum:
    """The gradient itself as the direction, in float32 or wider; no state.

    >>> rule = no_momentum()
    >>> rule.update(jnp.array([4.0]), rule.init(jnp.array([0.0])))[0].tolist()
    [4.0]
    """

    return Momentum(
        optax.init_empty_state,
        lambda grads, state: (jax.tree.map(widened, grads), state),
    )


def ema(
    beta: optax.ScalarOrSchedule,
    *,
    nesterov: bool = False,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Momentum:
    """M <- beta M + (1 - beta) G; direction M, or beta M + (1 - beta) G by Nesterov.

    `beta` may be a schedule: a warm-up from 0.85 to 0.95 over the first 300 steps is
    `optax.linear_schedule(0.85, 0.95, 300)`.

    >>> rule = ema(0.5)
    >>> rule.update(jnp.array([4.0]), rule.init(jnp.array([0.0])))[0].tolist()
    [2.0]
    """
    return _momentum(beta, lambda b: 1 - b, nesterov, mu_dtype)


def heavy_ball(
    beta: optax.ScalarOrSchedule,
    *,
    nesterov: bool = False,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Momentum:
    """M <- beta M + G; direction M, or beta M + G by Nesterov.

    >>> rule = heavy_ball(0.5)
    >>> rule.update(jnp.array([4.0]), rule.init(jnp.array([0.0])))[0].tolist()
    [4.0]
    """
    return _momentum(beta, lambda b: 1, nesterov, mu_dtype)


def dual_ema(
    b1: Scalar, b2: Scalar, *, mu_dtype: jax.typing.DTypeLike | None = None
) -> Momentum:
    """Direction b1 M + (1 - b1) G from the old M; then M <- b2 M + (1 - b2) G.

    >>> rule = dual_ema(0.5, 0.75)
    >>> direction, state = rule.update(jnp.array([4.0]), rule.init(jnp.array([0.0])))
    >>> direction.tolist(), state.mu.tolist()
    ([2.0], [1.0])
    """

    def update(grads: PyTree, state: MomentumState) -> tuple[PyTree, MomentumState]:
        return (
            _blend(grads, state.mu, b1, 1 - b1),
            MomentumState(stored(_blend(grads, state.mu, b2, 1 - b2), state.mu)),
        )

    return Momentum(_zeros(mu_dtype), update)


def root_mean_square(b2: optax.ScalarOrSchedule) -> Momentum:
    """R <- sqrt(b2 R^2 + (1 - b2) X^2), the root of a second moment, from R = 0.

    Kept in float32, without the squares, so nothing over- or underflows at any scale of
    X. `b2` may be a schedule. There is no bias correction.

    >>> rule = root_mean_square(0.75)
    >>> rule.update(jnp.array([4e30]), rule.init(jnp.array([0.0])))[0]
    Array([2.e+30], dtype=float32)
    """
    return _momentum(b2, lambda b: 1 - b, False, jnp.float32, _blend_squares)


def followed_by(fn: Callable[[PyTree], PyTree], rule: Momentum) -> Momentum:
    """`rule`, whose direction is sent through `fn`.

    >>> rule = followed_by(lambda tree: jax.tree.map(jnp.sign, tree), ema(0.5))
    >>> rule.update(jnp.array([-4.0]), rule.init(jnp.array([0.0])))[0].tolist()
    [-1.0]
    """

    def update(grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        direction, state = rule.update(grads, state)
        return fn(direction), state

    return Momentum(rule.init, update)


def _momentum(
    beta: optax.ScalarOrSchedule,
    weight: Callable[[Scalar], Scalar],
    nesterov: bool,
    mu_dtype: jax.typing.DTypeLike | None,
    blend: Callable[[PyTree, PyTree, Scalar, Scalar], PyTree] | None = None,
) -> Momentum:
    """M <- beta M + weight(beta) G."""
    blend = blend or _blend
    zeros = _zeros(mu_dtype)

    def init(params: PyTree) -> MomentumState:
        step = jnp.zeros([], jnp.int32) if callable(beta) else None
        return zeros(params)._replace(step=step)

    def update(grads: PyTree, state: MomentumState) -> tuple[PyTree, MomentumState]:
        old, step = beta, None
        if callable(beta):
            assert state.step is not None
            old, step = beta(state.step), optax.safe_increment(state.step)
        new = weight(old)
        average = blend(grads, state.mu, old, new)
        direction = blend(grads, average, old, new) if nesterov else average
        return direction, MomentumState(stored(average, state.mu), step)

    return Momentum(init, update)


def _blend(grads: PyTree, mu: PyTree, old: Scalar, new: Scalar) -> PyTree:
    def one(g: jax.Array | None, m: jax.Array) -> Any:
        if g is None:
            return None
        wide = jnp.promote_types(jnp.promote_types(g.dtype, m.dtype), jnp.float32)
        return old * m.astype(wide) + new * g.astype(wide)

    return jax.tree.map(one, grads, mu, is_leaf=_is_none)


def _blend_squares(xs: PyTree, roots: PyTree, old: Scalar, new: Scalar) -> PyTree:
    def one(x: jax.Array | None, root: jax.Array) -> Any:
        if x is None:
            return None
        return jnp.hypot(jnp.sqrt(old) * root, jnp.sqrt(new) * jnp.abs(x))

    return jax.tree.map(one, xs, roots, is_leaf=_is_none)


def stored(average: PyTree, mu: PyTree) -> PyTree:
    """The averages in the dtypes of the old ones; a leaf that is None keeps its own.

    >>> stored({"w": None}, {"w": jnp.ones(1)})["w"].tolist()
    [1.0]
    """
    return jax.tree.map(
        lambda a, m: m if a is None else a.astype(m.dtype),
        average,
        mu,
        is_leaf=_is_none,
    )


def _zeros(mu_dtype: jax.typing.DTypeLike | None) -> Callable[[PyTree], MomentumState]:
    def init(params: PyTree) -> MomentumState:
        for path, leaf in named_leaves(params).items():
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise ShapeError(
                    f"{path or '(root)'} is {leaf.dtype}{list(leaf.shape)}; momentum "
                    "needs a floating parameter. Exclude it with optax.masked or a rule"
                )
        return MomentumState(optax.tree.zeros_like(params, dtype=mu_dtype))

    return init


def _is_none(x: object) -> bool:
    return x is None


def steepest_descent(
    momentum: Momentum, geometry: Callable[[PyTree], PyTree]
) -> optax.GradientTransformationExtraArgs:
    """The direction of `momentum`, sent through `geometry`, in the gradients' dtype.

    The geometry receives the direction before it is rounded.

    >>> tx = steepest_descent(ema(0.9), lambda tree: jax.tree.map(jnp.sign, tree))
    >>> tx.update(jnp.array([-4.0]), tx.init(jnp.array([0.0])))[0].tolist()
    [-1.0]
    """

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, Any]:
        del params, extra_args
        direction, state = momentum.update(updates, state)
        return optax.tree.cast_like(geometry(direction), updates), state

    return optax.GradientTransformationExtraArgs(momentum.init, update)


def scale_by_momentum(
    beta: optax.ScalarOrSchedule = 0.95,
    *,
    nesterov: bool = False,
    form: Literal["ema", "heavy_ball"] = "ema",
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by its momentum; see `ema` and `heavy_ball`.

    No bias correction: what follows in the spectral and sign families ignores scale.

    Args:
        beta: decay of the average, in [0, 1): a number, traced or not, or a schedule.
        nesterov: looks one step ahead. Static.
        form: `ema` or `heavy_ball`. Static.
        mu_dtype: dtype of the stored average; None is that of the parameter. Static.

    State: `MomentumState`, one array for each parameter.
    Fails: `ShapeError` for a parameter that is not floating; `ConfigError` for an
    unknown form.

    >>> tx = scale_by_momentum(0.5)
    >>> tx.update(jnp.array([4.0]), tx.init(jnp.array([0.0])))[0].tolist()
    [2.0]
    """
    forms = {"ema": ema, "heavy_ball": heavy_ball}
    check_choice("form", form, forms)
    return steepest_descent(
        forms[form](beta, nesterov=nesterov, mu_dtype=mu_dtype), lambda tree: tree
    )
