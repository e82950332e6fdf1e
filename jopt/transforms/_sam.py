"""Gradient oracles of the SAM family: drop-in replacements of `jax.value_and_grad`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.transforms._ascent import AscentRule, l2_ascent
from jopt.transforms._ascent_directions import dropped_direction
from jopt.transforms._combine import CombineRule
from jopt.transforms._sam_oracle import (
    PerturbSync,
    SharpnessOracle,
    sharpness_oracle,
)
from jopt.transforms._sam_passes import functional, plain, selective
from jopt.transforms._sharpness import Sharpness
from jopt.transforms._sharpness_check import Fallback


def sam_value_and_grad(
    loss_fn: Callable[..., Any],
    ascent: AscentRule | None = None,
    *,
    combine: CombineRule | None = None,
    direction: optax.GradientTransformation | None = None,
    argnums: int = 0,
    has_aux: bool = False,
    group_size: int | None = None,
    batch_argnums: int | Sequence[int] = 1,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
    perturb_sync: PerturbSync = "local",
    perturb_dtype: jax.typing.DTypeLike = jnp.float32,
    reuse_rng: bool = True,
    fallback: Fallback = "clean",
) -> SharpnessOracle:
    """`jax.value_and_grad` whose gradient is that of SAM, or of a relative of it.

        g = grad f(w),  epsilon = ascent(direction(g)),  g^e = grad f(w + epsilon)

    and the gradient is `combine(g, g^e)`, for an optimizer that steps from w. Value and
    aux (BatchNorm statistics, metrics) are those of the clean pass. Everything after a
    gradient goes on as it is: clipping, accumulation, `optax.partition`, guards.

    Args:
        loss_fn: as for `jax.value_and_grad`.
        ascent: the norm ball; None is `l2_ascent(0.05)`. Or `asam_ascent`,
            `linf_ascent`, `spectral_ascent`, `preconditioned_ascent`; `mask` of each
            leaves out frozen parameters.
        combine: None is `perturbed()`, SAM. Or `gsam`, `wsam(decoupled=False)`,
            `looksam`, `ae_sam`. The last two do without the second gradient at some
            steps, and then it is not computed.
        direction: what is climbed along; None is the gradient, `f_sam_direction` the
            gradient without its mean.
        argnums: which argument the parameters are. Static.
        has_aux: the loss returns (value, aux).
        group_size: m-SAM: m examples climb together. The batch is seen as groups of m
            successive rows, under `vmap`, each with a perturbed copy of the parameters;
            gradients and values are means over groups, and `aux` comes stacked, groups
            first. Typed keys among the arguments are folded with the number of the
            group where there are several. Static.
        batch_argnums: arguments whose leaves have the examples on their first axis, for
            `group_size`.
        axis_name: mesh axes of `shard_map` or `pmap` whose devices have other examples.
            The gradient and the value are means over them; `aux` is the device's own.
        perturb_sync: `local`: each device climbs along its own gradient and only the
            result is averaged, as in the paper; one all-reduce less, and m-SAM with the
            examples of a device as m. `global`: gradients are averaged first, which is
            SAM on the whole batch. The same without `axis_name`, and no choice under
            plain `jit` with global arrays, where it is `global`.
        perturb_dtype: dtype of w + epsilon, at least; a wider one of the parameters
            stays. In bfloat16 most perturbations are rounded away: see the metric
            `perturbation_ratio`.
        reuse_rng: both passes get the same arguments. If False, typed keys
            (`jax.random.key`) among them are folded with 1 for the second.
        fallback: where g^e is not finite. `clean`: the gradient is g. `pass`: it is
            what comes out. `raise`: nothing can be raised from inside a compiled step,
            so the gradient is NaN in all entries, the metric `fallbacks` counts, and
            `check_sharpness(metrics, fallback="raise")` raises on the host;
            outside of jit the error comes at once.

    With replication checking on (`check_vma=True`) parameters are marked as device-
    varying before they are differentiated by, so nothing is summed behind one's back.
    State that is remembered (F-SAM's mean, LookSAM's memory) is that of the mean over
    devices and groups, so it is the same on all.

    State: `SharpnessState`. Cost: two gradients a step, and one more copy of the
    parameters while the second is computed; LookSAM 1 + 1/k, AE-SAM 1 + share of steps.

    Fails: `ConfigError` for an argument that does not fit; `ShapeError` at trace time
    for a batch that groups do not divide. Numbers inside the rules may be traced.

    References: Foret, Kleiner, Mobahi and Neyshabur 2021, arXiv 2010.01412;
    Andriushchenko and Flammarion 2022, arXiv 2206.06232 (m-SAM). For all others see
    the rules.

    >>> oracle = sam_value_and_grad(lambda w, x: jnp.sum(x * w**2) / 2, l2_ascent(0.1))
    >>> w, x = jnp.array([1.0, 0.0]), jnp.array([2.0, 3.0])
    >>> (value, aux), grads, state, metrics = oracle.apply(oracle.init(w), w, x)
    >>> float(value), grads.round(3).tolist(), aux  # g + rho H g / ||g|| = 2 + 0.2
    (1.0, [2.200000047683716, 0.0], None)
    """
    member, _ = _member(
        ascent,
        {
            "combine": combine,
            "direction": direction,
            "perturb_dtype": perturb_dtype,
            "fallback": fallback,
        },
    )
    return sharpness_oracle(
        plain(loss_fn, has_aux),
        member,
        argnums=argnums,
        group_size=group_size,
        batch_argnums=batch_argnums,
        axis_name=axis_name,
        perturb_sync=perturb_sync,
        reuse_rng=reuse_rng,
    )


def functional_sam_value_and_grad(
    model_fn: Callable[..., Any],
    output_loss: Callable[..., jax.Array],
    ascent: AscentRule | None = None,
    *,
    has_aux: bool = False,
    **options: Any,
) -> SharpnessOracle:
    """Functional-SAM: only the Jacobian of the model is taken at the perturbed point.

        u = J(w + epsilon)^T c,  c = grad of the output loss at z = F(w)

    SAM's other part, the change of the logits' gradient c, is left out: in language
    models it dominates and lowers the sharpness of the outputs instead of that of the
    function [quoted]. For a model that is linear in w it is the clean gradient.

    Args:
        model_fn: `model_fn(params, *args) -> z`, or (z, aux) with `has_aux`.
        output_loss: `output_loss(z, *args) -> value`, with the same arguments.
        ascent: as in `sam_value_and_grad`; the paper combines it with a preconditioned
            one.
        has_aux: of `model_fn`.
        options: the other arguments of `sam_value_and_grad`.

    State and cost as in `sam_value_and_grad`, without a second output loss.

    References: Singh, Mobahi, Agarwala and Dauphin 2025, arXiv 2502.02407.

    >>> def loss(z, x):
    ...     return jnp.sum(z**2)
    >>> oracle = functional_sam_value_and_grad(lambda w, x: w * x, loss)
    >>> w, x = jnp.array([3.0]), jnp.array([2.0])
    >>> oracle.apply(oracle.init(w), w, x)[1].tolist()
    [24.0]
    """
    member, rest = _member(ascent, options)
    return sharpness_oracle(functional(model_fn, output_loss, has_aux), member, **rest)


def esam_value_and_grad(
    example_losses: Callable[..., Any],
    ascent: AscentRule | None = None,
    *,
    beta: jax.typing.ArrayLike = 0.6,
    gamma: float = 0.5,
    seed: jax.typing.ArrayLike = 0,
    has_aux: bool = False,
    **options: Any,
) -> SharpnessOracle:
    """ESAM: some of the weights climb, and the examples that suffer most count.

    The direction is the gradient with each entry kept with probability `beta`, and the
    second gradient is the mean over the `gamma` N examples whose loss rises most from w
    to w + epsilon.

    Args:
        example_losses: `example_losses(params, batch, ...) -> losses (N,)`, or (losses,
            aux) with `has_aux`. The value is their mean. It is called on parts of the
            batch: rows of the arguments `batch_argnums`.
        ascent: as in `sam_value_and_grad`.
        beta: share of the weights; may be traced.
        gamma: share of the examples, rounded up. Static.
        seed: of the choice of weights.
        has_aux: of `example_losses`.
        options: the other arguments of `sam_value_and_grad`.

    State: `SharpnessState` with a `DroppedState`. Cost: one gradient, one forward pass
    and `gamma` of a gradient; gathering rows on a mesh moves them between devices.

    References: Du et al. 2022, ESAM, arXiv 2110.03141. There the perturbation itself is
    divided by beta; here the norm ball sees the direction after that.

    >>> def losses(w, x):
    ...     return (x * w - 1.0) ** 2
    >>> oracle = esam_value_and_grad(losses, beta=1.0)
    >>> w, x = jnp.float32(0.0), jnp.array([1.0, -1.0, 3.0, -3.0])
    >>> oracle.apply(oracle.init(w), w, x)[0][0]
    Array(1., dtype=float32)
    """
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma of ESAM is {gamma}; a share in (0, 1] is expected")
    options.setdefault("direction", dropped_direction(beta, seed))
    member, rest = _member(ascent, options)
    return sharpness_oracle(selective(example_losses, gamma, has_aux), member, **rest)


_PIECES = ("combine", "direction", "perturb_dtype", "fallback")


def _member(
    ascent: AscentRule | None, options: dict[str, Any]
) -> tuple[Sharpness, dict[str, Any]]:
    """A member of the family, and the arguments that are none of its pieces."""
    pieces = {name: options[name] for name in _PIECES if options.get(name) is not None}
    rest = {name: value for name, value in options.items() if name not in _PIECES}
    return Sharpness(ascent=ascent or l2_ascent(), **pieces), rest
