"""AdGD, AdGD-2 and Delta-SGD: descent whose step size nobody chooses."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jopt.optimizers._chain import Mask
from jopt.transforms import (
    AxisName,
    GradientPair,
    clip_by_global_norm,
    scale_by_local_smoothness,
)
from jopt.tree import PyTree


def adgd(
    init_step_size: ArrayLike = 1e-6,
    *,
    rule: Literal["adgd", "adgd2_rule1", "adgd2_rule2"] = "adgd",
    gradient_pair: GradientPair = "same_batch",
    start_up: bool = False,
    min_step_size: ArrayLike = 0.0,
    max_step_size: ArrayLike = jnp.inf,
    weight_decay: ArrayLike = 0.0,
    mask: Mask = None,
    clip: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent whose step is half the inverse of the smoothness it meets.

    W <- W - eta_t (G + weight_decay W) with eta_t = min(sqrt(1 + theta) eta_{t-1}, 1 /
    (2 L_t)), or one of the two rules of AdGD-2: see `scale_by_local_smoothness`. For
    convex objectives with a locally Lipschitz gradient it converges without a line
    search, on full batches.

    Step 1 has no limit to its growth, so that `init_step_size` matters little, if the
    first step moves the parameters by more than their rounding: after a step of 1e-10
    in float32, L is rounding noise, or there is no difference at all. AdGD-2 has such a
    limit: take `start_up=True`, or some size of the order of 1 / L.

    Args:
        init_step_size: eta_0, above 0; may be traced.
        rule, gradient_pair, start_up, min_step_size, max_step_size, axis_name: as in
            `scale_by_local_smoothness`.
        weight_decay: decoupled, times eta_t; L does not see it. A number, maybe traced.
        mask: which parameters decay, as in `optax.adamw`. Static.
        clip: the largest norm of the gradient that the step takes; L sees it unclipped.
            May be traced; that it is None is static.

    Extra args: `grad_fn`, the gradient on the batch of this step.
    State, cost, metrics, fails: as in `scale_by_local_smoothness`.

    References: Malitsky and Mishchenko 2019, arXiv 1910.09529 (`adgd`), and 2023, arXiv
    2308.02261 (AdGD-2; its proximal step is not here). Decay, clipping and limits are
    ours.

    >>> tx = adgd(0.125)
    >>> gradient = lambda w: 4 * w
    >>> w = jnp.array([8.0])
    >>> state = tx.init(w)
    >>> for _ in range(4):
    ...     updates, state = tx.update(gradient(w), state, w, grad_fn=gradient)
    ...     w = w + updates
    >>> w.tolist()  # Half of it is left of each step from the second on.
    [0.5]
    """
    inner = scale_by_local_smoothness(
        init_step_size,
        rule=rule,
        gradient_pair=gradient_pair,
        start_up=start_up,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
        axis_name=axis_name,
    )
    return _descent(inner, weight_decay, mask, clip)


def delta_sgd(
    init_step_size: ArrayLike = 0.2,
    *,
    gamma: ArrayLike = 2.0,
    delta: ArrayLike = 0.1,
    eps: ArrayLike = 0.0,
    gradient_pair: GradientPair = "same_batch",
    start_up: bool = False,
    min_step_size: ArrayLike = 0.0,
    max_step_size: ArrayLike = jnp.inf,
    weight_decay: ArrayLike = 0.0,
    mask: Mask = None,
    clip: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent whose step follows the smoothness of its batches.

    W <- W - eta_t (G + weight_decay W), eta_t = min(sqrt(1 + delta theta) eta_{t-1},
    gamma / (2 L_t)) + eps, with both gradients of L_t on the batch of step t: see
    `scale_by_local_smoothness`. With the defaults, the paper's, a step is at most 1 /
    L_t and grows by at most 5 % at a time; the released code has `delta=0.02` (1 %) and
    `eps=1e-8`, its `damping` being 2 / `gamma` and its `amplifier` `delta`.

    In a federation each client has a state of its own, begun anew in every round.

    Args:
        init_step_size: eta_0, above 0; may be traced.
        gamma: 1 is AdGD's 1 / (2 L).
        delta: brake on the growth; 1 is AdGD's.
        eps, gradient_pair, start_up, min_step_size, max_step_size, axis_name: as in
            `scale_by_local_smoothness`.
        weight_decay, mask, clip: as in `jopt.adgd`.

    Extra args: `grad_fn`, the gradient on the batch of this step.
    State, cost, metrics, fails: as in `scale_by_local_smoothness`.

    References: Kim, Toghani, Uribe and Kyrillidis 2023, Adaptive federated learning
    with auto-tuned clients, arXiv 2306.11201. Decay, clipping and limits are ours.

    >>> tx = delta_sgd(0.2)
    >>> gradient = lambda w: 10 * w
    >>> w = jnp.array([1.0])
    >>> state = tx.init(w)
    >>> for _ in range(2):
    ...     updates, state = tx.update(gradient(w), state, w, grad_fn=gradient)
    ...     w = w + updates
    >>> round(float(state.step_size), 4), w.tolist()  # 1 / L: the minimum.
    (0.1, [0.0])
    """
    inner = scale_by_local_smoothness(
        init_step_size,
        rule="delta_sgd",
        gamma=gamma,
        delta=delta,
        eps=eps,
        gradient_pair=gradient_pair,
        start_up=start_up,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
        axis_name=axis_name,
    )
    return _descent(inner, weight_decay, mask, clip)


def _descent(
    scale: optax.GradientTransformationExtraArgs,
    weight_decay: ArrayLike,
    mask: Mask,
    clip: ArrayLike | None,
) -> optax.GradientTransformationExtraArgs:
    """The descent along what `scale` made, whose state has a `step_size`."""

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        steps, state = scale.update(updates, state, params, **extra_args)
        done = own_step(steps, state.step_size, params, weight_decay, mask, clip)
        return done, state

    return optax.GradientTransformationExtraArgs(scale.init, update)


def own_step(
    steps: PyTree,
    step_size: jax.Array,
    params: PyTree,
    weight_decay: ArrayLike,
    mask: Mask,
    clip: ArrayLike | None,
) -> PyTree:
    """-step_size (clip(G) + weight_decay W), from `steps` = step_size G, in its dtypes.

    >>> w, eta = jnp.array([1.0]), jnp.array(0.5)
    >>> own_step(jnp.array([2.0]), eta, w, 0.5, mask=None, clip=3.0).tolist()
    [-1.75]
    """
    done = steps
    if clip is not None:
        done, _ = clip_by_global_norm(step_size * clip).update(done, optax.EmptyState())
    decay = optax.add_decayed_weights(step_size * weight_decay, mask)
    done, _ = decay.update(done, decay.init(params), params)
    return optax.tree.cast_like(jax.tree.map(jnp.negative, done), steps)
