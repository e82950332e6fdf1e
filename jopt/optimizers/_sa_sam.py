"""SA-SAM: sharpness-aware descent whose step and radius follow the smoothness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jopt.errors import check_choice
from jopt.optimizers._chain import Mask
from jopt.optimizers._sa_sam_step import DEFAULTS, SASAMState, SASAMStep, Variant
from jopt.optimizers._smoothness import own_step
from jopt.transforms import (
    AscentRule,
    AxisName,
    GradFn,
    MatrixSpecs,
    asam_ascent,
    l2_ascent,
    linf_ascent,
    preconditioned_ascent,
    spectral_ascent,
)
from jopt.transforms._gradient_pairs import averaged, gradient_function
from jopt.transforms._local_smoothness import check_params, scaled
from jopt.transforms._step_rules import check_step_sizes
from jopt.tree import PyTree

SmoothnessName: TypeAlias = Literal["trajectory", "perturbation"]
AscentName: TypeAlias = Literal[
    "l2", "elementwise", "linf", "spectral", "preconditioned"
]


def sa_sam(
    init_step_size: ArrayLike = 0.05,
    *,
    variant: Variant = "released",
    gamma: ArrayLike | None = None,
    delta: ArrayLike | None = None,
    rho_scale: ArrayLike = 1.0,
    rho_max: ArrayLike = jnp.inf,
    lag_rho: bool | None = None,
    smoothness: SmoothnessName = "trajectory",
    min_step_size: ArrayLike = 0.0,
    max_step_size: ArrayLike = jnp.inf,
    eps: ArrayLike | None = None,
    ascent: AscentRule | AscentName = "l2",
    weight_decay: ArrayLike = 0.0,
    mask: Mask = None,
    clip: ArrayLike | None = None,
    axis_name: AxisName = None,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SAM whose step size and radius both follow the local smoothness.

    With all gradients on the batch of step t, and theta_t = eta_t / eta_{t-1},

        L_t   = ||g(w_t) - g(w_{t-1})|| / ||w_t - w_{t-1}||
        eta_t = min(sqrt(1 + delta theta_{t-1}) eta_{t-1}, gamma / (2 L_t)) + eps
        rho_t = min(rho_scale sqrt(eta), rho_max)      with eta_t, or eta_{t-1} (lagged)
        w    <- w - eta_t (g(w + rho_t g / ||g||) + weight_decay w)

    | variant  | gamma | delta | eps  | radius from | step 0                    |
    |----------|-------|-------|------|-------------|---------------------------|
    | paper    | 1     | 1     | 0    | eta_t       | eta_0; no limit to step 1 |
    | released | 2     | 0.02  | 1e-8 | eta_{t-1}   | eta_0 sqrt(1 + delta)     |

    `released` is the authors' code, which their experiments ran; `delta=0.1` is the
    brake of Delta-SGD's paper.

    The radius is a fixed loss budget (derived). rho^2 L / 2 is rho_scale^2 / 4 (paper)
    or / 2 (released) whatever the curvature, in units of the loss. The method is
    therefore not invariant to the scale of the loss, and on a quadratic it ends in a
    cycle with a loss of 1/36 (paper) or 1/2 (released), times rho_scale^2. Where losses
    become small, take `rho_scale` 0.1 to 0.3, or `rho_max=0.2`. `docs/smoothness.md`.

    Args:
        init_step_size: eta_0 > 0.
        variant: what `gamma`, `delta`, `eps` and `lag_rho` are where they are None.
            Static.
        rho_scale: 1 is the published method.
        rho_max: largest radius.
        lag_rho: the radius is that of the step size before; static.
        smoothness: `trajectory`, as above. `perturbation` (ours) takes the pair of SAM
            itself, L_t = ||g(w + epsilon) - g(w)|| / ||epsilon||: a gradient less and
            no copy of the parameters. It serves step t with a lagged radius, else step
            t + 1. Static.
        min_step_size, max_step_size, axis_name: as in `scale_by_local_smoothness`.
        ascent: where to climb: `l2` as above, `elementwise` (ASAM), `linf`, `spectral`
            or `preconditioned`, or a rule such as `jopt.l2_ascent(mask=...)`, whose own
            radius is not read. Static.
        weight_decay, mask, clip: as in `jopt.adgd`; `clip` is for the perturbed
            gradient. L sees neither.
        matrix_specs, shardings: of `spectral`, as in `scale_by_orthogonalization`.

    Numbers may be traced.

    Extra args: `grad_fn(params) -> grads` on the batch and the random key of this step,
    or `value_and_grad_fn`. It is given w + epsilon in at least float32: in bfloat16
    most of epsilon would be rounded away.

    As in `scale_by_local_smoothness` where L is 0 or not finite. Where g = 0 nothing is
    climbed. Where the perturbed gradient is not finite, the step goes along g, theta is
    1 and `skipped` counts.

    Cost: two gradients more than plain descent (one with `perturbation`), one after the
    other; those of an ascent rule.
    State: `SASAMState`: the parameters once, in at least float32 (none with
    `perturbation`). Metrics: `step_size`, `ratio`, `smoothness`, `skipped`, `rho`.
    Fails: `ConfigError` for an unknown choice, a size that is not above 0, and in
    `update` without `grad_fn` or `params`.

    References: Naganuma, Kim, Kyrillidis and Mitliagkas 2024, Smoothness-adaptive
    sharpness-aware minimization for finding flatter minima, ICLR workshop PML4LRS. Its
    text and code differ, as above; scale and limits of the radius, `perturbation`,
    decay and clipping are ours.

    >>> tx = sa_sam(0.25, variant="paper")
    >>> gradient = lambda w: 4 * w
    >>> w = jnp.array([1.0])
    >>> state = tx.init(w)
    >>> for _ in range(2):
    ...     updates, state = tx.update(gradient(w), state, w, grad_fn=gradient)
    ...     w = w + updates
    >>> float(state.step_size), round(float(state.rho) ** 2, 4)  # 1 / (2 L), and again
    (0.125, 0.125)
    """
    check_choice("variant", variant, DEFAULTS)
    check_choice("smoothness", smoothness, get_args(SmoothnessName))
    check_step_sizes(init_step_size=init_step_size, max_step_size=max_step_size)
    usual = DEFAULTS[variant]
    core = SASAMStep(
        rule=usual.rule(gamma, delta, eps),
        limits=(min_step_size, max_step_size),
        rho_scale=rho_scale,
        rho_max=rho_max,
        lagged=usual.lag_rho if lag_rho is None else lag_rho,
        along_path=smoothness == "trajectory",
        ascent=_ascent_rule(ascent, matrix_specs, shardings),
    )

    def init(params: PyTree) -> SASAMState:
        return core.init(params, init_step_size)

    def update(
        updates: PyTree,
        state: SASAMState,
        params: PyTree = None,
        *,
        grad_fn: GradFn | None = None,
        value_and_grad_fn: Callable[[PyTree], tuple[Any, PyTree]] | None = None,
        **extra_args: object,
    ) -> tuple[PyTree, SASAMState]:
        del extra_args
        check_params("sa_sam", params)
        gradient = gradient_function("sa_sam", grad_fn, value_and_grad_fn, axis_name)
        grads = averaged(updates, axis_name)
        direction, state = core.update(grads, gradient, state, params)
        steps = scaled(state.step_size, direction)
        steps = own_step(steps, state.step_size, params, weight_decay, mask, clip)
        return optax.tree.cast_like(steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _ascent_rule(
    ascent: AscentRule | AscentName, matrix_specs: MatrixSpecs, shardings: PyTree | None
) -> AscentRule:
    """A rule, or the one of a name; the radius comes from elsewhere."""
    if isinstance(ascent, AscentRule):
        return ascent
    check_choice("ascent", ascent, get_args(AscentName))
    if ascent == "spectral":
        return spectral_ascent(matrix_specs=matrix_specs, shardings=shardings)
    by_name: dict[str, Callable[[], AscentRule]] = {
        "l2": l2_ascent,
        "elementwise": asam_ascent,
        "linf": linf_ascent,
        "preconditioned": preconditioned_ascent,
    }
    return by_name[ascent]()
