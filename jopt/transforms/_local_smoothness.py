"""Step sizes that follow the local smoothness: AdGD, AdGD-2 and Delta-SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jopt.errors import ConfigError, check_choice
from jopt.transforms._gradient_pairs import (
    GradFn,
    averaged,
    distance,
    gradient_function,
    is_inexact,
    scalar_dtype,
    smoothness_of,
    widened_tree,
)
from jopt.transforms._skip import select
from jopt.transforms._start_up import start_up_step_size
from jopt.transforms._step_rules import (
    RuleName,
    StepSize,
    check_step_sizes,
    next_step_size,
    step_rule,
)
from jopt.transforms._vote import AxisName
from jopt.tree import PyTree

GradientPair: TypeAlias = Literal["same_batch", "stored"]


class LocalSmoothnessState(NamedTuple):
    """State of `scale_by_local_smoothness`.

    Attributes:
        count: int32 scalar, updates in which all was finite.
        step_size: eta of the last update; before the first one, the initial size. This
            and the next two are float32, or as wide as the parameters are.
        ratio: theta, the last step size divided by the one before.
        smoothness: the last L that could be used; 0 before there is one.
        skipped: int32 scalar, updates in which L was not finite.
        prev_params: the parameters of the last finite update, in at least float32.
        prev_grads: its gradient, in at least float32; `()` with `same_batch`.
    """

    count: jax.Array  # type: ignore[assignment]  # Optax's name, and a tuple's method
    step_size: jax.Array
    ratio: jax.Array
    smoothness: jax.Array
    skipped: jax.Array
    prev_params: PyTree
    prev_grads: PyTree

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What a training step reports."""
        return step_size_metrics(self)


def step_size_metrics(state: Any) -> dict[str, jax.Array]:
    """The figures of a step size that sets itself, float32.

    >>> from types import SimpleNamespace
    >>> one = jnp.ones(())
    >>> state = SimpleNamespace(step_size=one, ratio=one, smoothness=one, skipped=one)
    >>> list(step_size_metrics(state))
    ['step_size', 'ratio', 'smoothness', 'skipped']
    """
    return {
        "step_size": state.step_size.astype(jnp.float32),
        "ratio": state.ratio.astype(jnp.float32),
        "smoothness": state.smoothness.astype(jnp.float32),
        "skipped": state.skipped.astype(jnp.float32),
    }


def scale_by_local_smoothness(
    init_step_size: ArrayLike = 0.2,
    *,
    rule: RuleName = "delta_sgd",
    gamma: ArrayLike | None = None,
    delta: ArrayLike | None = None,
    gradient_pair: GradientPair = "same_batch",
    start_up: bool = False,
    min_step_size: ArrayLike = 0.0,
    max_step_size: ArrayLike = jnp.inf,
    eps: ArrayLike = 0.0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies all updates by one step size, from the smoothness along the path.

    With the gradients of both points on the batch of this step,

        L_t = ||g(w_t) - g(w_{t-1})|| / ||w_t - w_{t-1}||        (over the whole tree)

    and theta_t = eta_t / eta_{t-1}, the update is +eta_t g (the sign is kept) with

        adgd         eta_t = min(sqrt(1 + theta) eta, 1 / (2 L_t)),       theta_0 = inf
        adgd2_rule1  eta_t = min(sqrt(1 + theta) eta, 1 / (sqrt(2) L_t)),   theta_0 = 0
        adgd2_rule2  eta_t = min(sqrt(2/3 + theta) eta,
                                 eta / sqrt([2 eta^2 L_t^2 - 1]_+)),      theta_0 = 1/3
        delta_sgd    eta_t = min(sqrt(1 + delta theta) eta, gamma / (2 L_t)),
                                                                          theta_0 = 1

    where eta and theta are those of step t - 1. Step 0 has `init_step_size`. For `adgd`
    no growth limits step 1, and none other.

    Nothing else in a chain should multiply by a learning rate. Weight decay, clipping
    and momentum come after: they would be in one of two gradients only. `jopt.adgd` and
    `jopt.delta_sgd` are the chains with the minus.

    Extra args of `update`: `grad_fn(params) -> grads` on the batch and the random key
    of this step, or `value_and_grad_fn`. With `optax.MultiSteps` around it, the batch
    is the whole window.

    Args:
        init_step_size: eta_0 > 0, in units of parameters per gradient.
        rule: static.
        gamma: of `delta_sgd` alone: 2 (the paper, and None); 1 is AdGD's half.
        delta: of `delta_sgd` alone: 0.1 (the paper, and None); 1 is AdGD.
        gradient_pair: `same_batch` evaluates g(w_{t-1}) on the batch of step t.
            `stored` takes the gradient of the last step, on its batch: right for full
            batches only, since otherwise the difference of two batches stays where the
            step shrinks, L explodes and the step size collapses. It needs no `grad_fn`.
            Static.
        start_up: step 0 has the size that `start_up_step_size` finds from
            `init_step_size`; AdGD-2, which grows by small factors, wants that. Needs
            `grad_fn`. Static.
        min_step_size, max_step_size: limits, before theta is formed.
        eps: added to eta_t after the minimum, where L is usable (released code of
            Delta-SGD: 1e-8).
        axis_name: of `shard_map`, `pmap` or `vmap` whose workers have each a gradient
            of their own, in `updates` and from `grad_fn`: these are averaged before any
            norm. (In a `shard_map` that checks replication, differentiate with respect
            to `jax.lax.pcast(params, axis_name, to="varying")`.) Under plain `jit`
            leave it out. Static.

    Numbers may be traced.

    - If ||w_t - w_{t-1}|| or the change of the gradient is 0, the step grows (in step 1
      of `adgd`, whose growth is infinite, it stays).
    - If L is not finite, the step size stays, theta is 1, the points are not stored,
      and `skipped` counts. The update is then eta g, with whatever g holds: wrap in
      `jopt.skip_nonfinite` to leave it out.
    - bfloat16 parameters: differences are those that were really made, in float32. A
      step that rounds to nothing counts as none.
    - Norms are exact for L and 1 / L from 1e-37 to 1e37.

    Cost: one gradient more (none with `stored`), and one pass over two trees.
    State: `LocalSmoothnessState`: the parameters once, in at least float32; twice with
    `stored`. Metrics: `step_size`, `ratio`, `smoothness`, `skipped`.
    Fails: `ConfigError` for an unknown choice, for `gamma` or `delta` with another rule
    than `delta_sgd`, for a size that is not above 0, and in `update` without `grad_fn`
    or without `params`.

    References: Malitsky and Mishchenko 2019, Adaptive gradient descent without descent,
    arXiv 1910.09529; the same 2023, Adaptive proximal gradient method for convex
    optimization, arXiv 2308.02261; Kim, Toghani, Uribe and Kyrillidis 2023, Adaptive
    federated learning with auto-tuned clients, arXiv 2306.11201. Limits and what is
    done about values that are not finite are ours.

    >>> tx = scale_by_local_smoothness(0.1, rule="adgd")
    >>> gradient = lambda w: 4 * w
    >>> w = jnp.ones(1)
    >>> state = tx.init(w)
    >>> for _ in range(2):
    ...     updates, state = tx.update(gradient(w), state, w, grad_fn=gradient)
    ...     w = w - updates
    >>> round(float(state.step_size), 4), round(float(state.smoothness), 4)
    (0.125, 4.0)
    """
    chosen = step_rule(rule, gamma, delta, eps)
    check_choice("gradient_pair", gradient_pair, get_args(GradientPair))
    check_step_sizes(init_step_size=init_step_size, max_step_size=max_step_size)
    stored = gradient_pair == "stored"
    name = f"scale_by_local_smoothness with rule={rule!r}"

    def init(params: PyTree) -> LocalSmoothnessState:
        dtype = scalar_dtype(params)
        # Copies: parameters and state may both be given away to one program.
        return LocalSmoothnessState(
            count=jnp.zeros((), jnp.int32),
            step_size=jnp.asarray(init_step_size, dtype),
            ratio=jnp.asarray(chosen.ratio, dtype),
            smoothness=jnp.zeros((), dtype),
            skipped=jnp.zeros((), jnp.int32),
            prev_params=jax.tree.map(jnp.copy, widened_tree(params)),
            prev_grads=jax.tree.map(jnp.zeros_like, widened_tree(params))
            if stored
            else (),
        )

    def update(
        updates: PyTree,
        state: LocalSmoothnessState,
        params: PyTree = None,
        *,
        grad_fn: GradFn | None = None,
        value_and_grad_fn: Callable[[PyTree], tuple[Any, PyTree]] | None = None,
        **extra_args: object,
    ) -> tuple[PyTree, LocalSmoothnessState]:
        del extra_args
        check_params(name, params)
        grads = averaged(updates, axis_name)
        before: PyTree = state.prev_grads
        if not stored or start_up:
            gradient = gradient_function(name, grad_fn, value_and_grad_fn, axis_name)
        if not stored:
            before = gradient(optax.tree.cast_like(state.prev_params, params))
        last = StepSize(state.step_size, state.ratio)
        if start_up:
            last = jax.lax.cond(
                state.count == 0,
                lambda: last._replace(
                    step_size=start_up_step_size(
                        gradient, params, last.step_size, grads=grads
                    ).step_size
                ),
                lambda: last,
            )
        pair = smoothness_of(
            distance(params, state.prev_params), distance(grads, before)
        )
        usable = pair.usable & (state.count > 0)
        value = pair.value.astype(state.smoothness.dtype)
        limits = (min_step_size, max_step_size)
        size = next_step_size(chosen, state.count, last, value, usable, limits)
        kept = StepSize(last.step_size, neutral_ratio(state.count, last.ratio))
        size = select(pair.finite, size, kept)
        new = LocalSmoothnessState(
            count=optax.safe_increment(state.count),
            step_size=size.step_size,
            ratio=size.ratio,
            smoothness=jnp.where(usable, value, state.smoothness),
            skipped=state.skipped,
            prev_params=widened_tree(params),
            prev_grads=widened_tree(grads) if stored else (),
        )
        left_out = state._replace(
            step_size=size.step_size,
            ratio=size.ratio,
            skipped=optax.safe_increment(state.skipped),
        )
        return scaled(size.step_size, grads), select(pair.finite, new, left_out)

    return optax.GradientTransformationExtraArgs(init, update)


def neutral_ratio(count: jax.Array, ratio: jax.Array) -> jax.Array:
    """theta after an update that says nothing: 1, and theta_0 before the first one.

    >>> float(neutral_ratio(jnp.array(3), jnp.array(0.5)))
    1.0
    """
    return jnp.where(count == 0, ratio, jnp.ones_like(ratio))


def scaled(factor: jax.Array, tree: PyTree) -> PyTree:
    """A tree times a scalar, in its own dtypes; integer leaves as they are.

    >>> scaled(jnp.array(2.0), {"w": jnp.ones(1, jnp.bfloat16)})["w"].dtype
    dtype(bfloat16)
    """
    return jax.tree.map(
        lambda x: (factor * x).astype(x.dtype) if is_inexact(x) else x, tree
    )


def check_params(name: str, params: PyTree) -> None:
    """Fails with `ConfigError` where an update was not given the parameters.

    >>> check_params("sa_sam", {"w": 1.0})
    """
    if params is None:
        raise ConfigError(
            f"{name} needs params: call tx.update(updates, state, params, grad_fn=...)"
        )
