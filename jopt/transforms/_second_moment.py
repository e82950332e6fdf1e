"""Division by a running root mean square: by entry, output, longer side or matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import check_choice
from jopt.linalg import widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._momentum import Momentum, MomentumState, root_mean_square
from jopt.transforms._nonfinite import unless_any
from jopt.transforms._norms import divided, input_rms, matrix_norm, output_rms
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.

MomentPer = Literal["entry", "output", "longer"]
Per = Literal["entry", "output", "longer", "factored", "matrix"]


class Sides(NamedTuple):
    """Something for each output and each input of every matrix."""

    outputs: PyTree
    inputs: PyTree


def scale_by_second_moment(
    b2: optax.ScalarOrSchedule = 0.95,
    *,
    per: MomentPer = "output",
    eps: jax.typing.ArrayLike = 1e-8,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides by a running root mean square, and gives each matrix its norm back.

    For an update O, with V a running mean of O^2 (V <- b2 V + (1 - b2) O^2 from 0, over
    what `per` says), the result is Q ||O||_F / max(||Q||_F, 1e-8), Q = O / (sqrt(V) +
    eps). There is no bias correction, which would cancel here but for eps. A zero
    matrix stays zero, and has its V as it was: that of a gradient left out by
    `nan_policy="zero"` is one.

    Args:
        b2: decay of the mean, in [0, 1): a number, traced or not, or a schedule.
        per: `output`: one number for each output of a matrix, the mean over its inputs.
            `entry`: one for each entry. `longer`: one for each index of the longer side
            of a matrix (of a square one, each output), the mean over the shorter.
            Static.
        eps: small beside the root mean square of O, which is 1 / sqrt(longer side) for
            a polar factor of full rank. May be traced.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. Each block of a
            fused output and each head has moments and norm of its own. Inside
            `shard_map` means and norms are those of whole matrices. Static.

    State: `MomentumState` of square roots, in float32: `entry` in the shape of the
    parameters; `output` in that shape with fan-in axes of length 1; `longer` that and
    the same for inputs (`Sides`), of which each matrix uses one.
    Fails: `ConfigError` for another `per`; `ShapeError` at init for parameters that
    cannot be seen as matrices.

    References: Li et al. 2025, NorMuon, arXiv 2510.05491, for `output`; the GPT-2
    speed-run's NorMuon for `longer`; Si et al. 2025, AdaMuon, arXiv 2507.11005, for
    `entry`.

    >>> tx = scale_by_second_moment()
    >>> o = {"w": jnp.array([[0.6, 0.0], [0.8, 0.1]])}
    >>> jnp.linalg.norm(tx.update(o, tx.init(o))[0]["w"], axis=0).round(2)
    Array([0.71, 0.71], dtype=float32)
    """
    check_choice("per", per, get_args(MomentPer))
    views = Views.read(matrix_specs, shardings)
    rule = root_mean_square(b2)

    def init(params: PyTree) -> MomentumState:
        return rule.init(_zeros(per, views, params))

    def update(
        updates: PyTree,
        state: MomentumState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, MomentumState]:
        del params, extra_args
        roots, new = rule.update(_sizes(per, views, updates), state)
        fn = partial(_divided_at_norm, per, eps)
        kept = _unless_zero(views, updates, new.mu, state.mu)
        return views.map(fn, updates, *_trees(roots)), new._replace(mu=kept)

    return optax.GradientTransformationExtraArgs(init, update)


class PreconditionedState(NamedTuple):
    """The state of the momentum, and the roots of second moments of the gradient."""

    momentum: Any
    moment: MomentumState


def preconditioned(
    rule: Momentum,
    b2: optax.ScalarOrSchedule,
    eps: jax.typing.ArrayLike,
    views: Views,
    per: Per = "entry",
) -> Momentum:
    """`rule`, whose direction is divided by sqrt(V) + eps, V a running mean of G^2.

    `per` says what V has a number for: `entry`; `matrix`, whose V is the running mean
    of ||G||_F^2; `factored`: for each input and output, V_ij = in_i out_j / mean(in),
    from the means over the other side.

    The roots are kept, not the squares, so gradients of 1e-30 and 1e30 are no trouble.
    How far eps is felt depends on their scale.

    >>> from jopt.transforms import ema
    >>> rule = preconditioned(ema(0.0), 0.0, 0.0, Views())
    >>> g = {"w": jnp.array([[3e30, -4e-30]])}
    >>> rule.update(g, rule.init(g))[0]["w"].tolist()
    [[1.0, -1.0]]
    """
    check_choice("per", per, get_args(Per))
    moments = root_mean_square(b2)

    def init(params: PyTree) -> PreconditionedState:
        return PreconditionedState(
            rule.init(params), moments.init(_zeros(per, views, params))
        )

    def update(grads: PyTree, state: Any) -> tuple[PyTree, PreconditionedState]:
        direction, momentum = rule.update(grads, state.momentum)
        roots, moment = moments.update(_sizes(per, views, grads), state.moment)
        direction = views.map(partial(_divided, per, eps), direction, *_trees(roots))
        return direction, PreconditionedState(momentum, moment)

    return Momentum(init, update)


_SIZES: dict[str, Callable[[Spread, jax.Array], jax.Array]] = {
    "entry": lambda spread, x_SMN: jnp.abs(widened(x_SMN)),
    "output": output_rms,
    "input": input_rms,
    "matrix": matrix_norm,
}


def _sizes(per: Per, views: Views, tree: PyTree) -> PyTree:
    """The roots of what is averaged."""
    if per in _SIZES:
        return views.map(_SIZES[per], tree)
    return Sides(views.map(output_rms, tree), views.map(input_rms, tree))


def _zeros(per: Per, views: Views, params: PyTree) -> PyTree:
    """A tree in the shape of `_sizes`."""
    if per == "entry":
        views.specs(params)
        return params
    if per == "output":
        return views.outputs(params)
    if per == "matrix":
        return views.singles(params)
    return Sides(views.outputs(params), views.inputs(params))


def _unless_zero(views: Views, updates: PyTree, new: PyTree, old: PyTree) -> PyTree:
    """`new` for matrices whose update is not zero, `old` for the others."""
    if isinstance(new, Sides):
        pairs = zip(new, old, strict=True)
        return Sides(*(_unless_zero(views, updates, n, o) for n, o in pairs))
    # The old one, unless there is anything in the update.
    return unless_any(lambda x: x != 0, views, updates, new=old, old=new)


def _trees(roots: PyTree) -> tuple[PyTree, ...]:
    return tuple(roots) if isinstance(roots, Sides) else (roots,)


def _divided(
    per: Per,
    eps: jax.typing.ArrayLike,
    spread: Spread,
    x_SMN: jax.Array,
    *roots: jax.Array,
) -> jax.Array:
    root = roots[0]
    if per == "longer":
        rows, columns = x_SMN.shape[1] * spread.rows, x_SMN.shape[2] * spread.columns
        root = roots[0] if columns >= rows else roots[1]
    if per == "factored":
        outputs_S1N, inputs_SM1 = roots
        # Over its one column and all inputs; a device that has other columns has them.
        alone = spread._replace(column_names=(), columns=1)
        root = outputs_S1N * divided(inputs_SM1, output_rms(alone, inputs_SM1))
    return divided(widened(x_SMN), root + eps)


def _divided_at_norm(
    per: Per,
    eps: jax.typing.ArrayLike,
    spread: Spread,
    x_SMN: jax.Array,
    *roots: jax.Array,
) -> jax.Array:
    quotient_SMN = _divided(per, eps, spread, x_SMN, *roots)
    before_S11 = matrix_norm(spread, x_SMN)
    after_S11 = jnp.maximum(matrix_norm(spread, quotient_SMN), 1e-8)
    return (quotient_SMN * (before_S11 / after_S11)).astype(x_SMN.dtype)
