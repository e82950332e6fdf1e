"""One momentum, and for every matrix the geometry that gains more in a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.criteria._stats import STATS_METHODS
from jopt.errors import ConfigError, check_choice
from jopt.linalg import Coefficients, Engine, MethodName, Normalization
from jopt.linalg._norms import NuclearMethod, polar_settings
from jopt.transforms._alternate import is_due
from jopt.transforms._by_choice import (
    Choices,
    GeometrySteps,
    SpectralScale,
    SwitchMode,
    read_choices_argument,
    select_steps,
)
from jopt.transforms._choosing import (
    Criterion,
    GeometryName,
    dwell_steps,
    read_criterion,
    read_geometries,
)
from jopt.transforms._evidence import SwitchCurvature
from jopt.transforms._momentum import dual_ema
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._polar import guarded, polar_map
from jopt.transforms._shape import ADAMW_RMS, shape_map
from jopt.transforms._singles import Singles
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._switch_rule import SwitchRule, SwitchSignal, wanted
from jopt.transforms._switch_state import SwitchState
from jopt.tree import PyTree


def scale_by_geometry_switch(
    criterion: Criterion = "spec_sign",
    *,
    geometries: Sequence[GeometryName] = ("sign", "spectral"),
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    rms: jax.typing.ArrayLike = ADAMW_RMS,
    sign_rms: jax.typing.ArrayLike | None = None,
    spectral_scale: SpectralScale = "unit_rms",
    curvature: SwitchCurvature = "auto",
    signal: SwitchSignal = "gradient",
    ema_decay: jax.typing.ArrayLike = 0.95,
    hysteresis: jax.typing.ArrayLike = 0.1,
    min_dwell: jax.typing.ArrayLike = 100,
    min_dwell_fraction: jax.typing.ArrayLike | None = None,
    total_steps: jax.typing.ArrayLike | None = None,
    every: jax.typing.ArrayLike = 10,
    initial: Choices | None = None,
    rate: jax.typing.ArrayLike = 0.05,
    shares: Sequence[jax.typing.ArrayLike] | None = None,
    seed: jax.typing.ArrayLike = 0,
    mode: SwitchMode = "where",
    choices: Choices | None = None,
    stats_method: NuclearMethod = "quick",
    nan_policy: NanPolicy = "propagate",
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> optax.GradientTransformationExtraArgs:
    """Sign, spectral or Euclidean steps, as a criterion decides for every matrix.

    With one memory M for all geometries, C = b1 M + (1 - b1) G, M <- b2 M + (1 - b2) G,
    an M x N matrix gets, all of one RMS, so that a change of geometry is none of size,

    - sign: rms sign(C), or of another `sign_rms`;
    - spectral: rms sqrt(M N) P / ||P||_F, P = polar(C), or see `spectral_scale`;
    - euclidean: rms sqrt(M N) C / ||C||_F.

    In steps whose number is a multiple of `every`, before the step is made:

    1. Measure signal S_g = ||G||_* and noise N_g = ||Delta||_* in the dual norm of each
       geometry, and its curvature L_g, for each matrix: of a stack, each block of a
       fused parameter, each head.
    2. Average these with `ema_decay`, bias-corrected. A measurement that is not finite
       is left out, for its matrix alone.
    3. Score the geometries by twice the log of their gain, 2 log X_g - log L_g with the
       excess X_g = S_g - N_g; the index of `jopt.criteria.spec_sign_index` is the
       difference of two scores. One without excess is out, if another has some.
    4. Change to the best if it is ahead by more than `hysteresis` and the present one
       has held for `min_dwell` steps. The first decision waits for neither.

    Extra args of `update`: `half_difference` (Delta, a tree like the gradients: half
    the difference between the mean gradients of two halves of the batch) and
    `activation_grams` (path -> A^T A / N of what the weight multiplies, see below).

    Args:
        criterion: static. `spec_sign`: as above. `snr`: its index is 2 log(SNR_nuc /
            SNR_1), without curvature. `det`: as if there were no noise;
            `half_difference` is not read. `nuclear_stable`: log(nr / st), so spectral
            where the nuclear rank of the gradient is above the stable rank of the
            activations, whatever else is offered; without noise, with `worst_case` (or
            `dimension`) curvature for st. `random`: a coin,
            see `rate`; nothing is measured. Or a function (GeometryStats, Curvature) ->
            SpecSignIndex of vectors, of which the index counts; it is asked once more
            with the Euclidean norms in the fields of the sign for that geometry, and
            where it says NaN nothing changes.
        geometries: `spectral` and one or two others. The first in the order sign,
            spectral, euclidean is used until there is a decision. Static.
        b1, b2, mu_dtype: as in `lion_muon`.
        rms: of every update. With one rate for all geometries a change then changes no
            size; the best sizes may differ.
        sign_rms: of sign updates; None is `rms`. LionMuon's two rates have a quarter.
        spectral_scale: `unit_rms`: as above. `match_rms`: Muon's, rms sqrt(max(M, N))
            P, so less than `rms` where P has not full rank, as numbers have it; the
            other makes up for that in the directions that are there. Static.
        curvature: static. `directional`: L_g = tr(D^T C_A D) along the unit step D of
            the geometry. `worst_case`: its upper bound. `dimension`, without
            activations: L_max / L_op = fan-out sqrt(fan-in), L_F / L_op = 1 /
            sqrt(fan-in), in the middle of what is possible. `auto`: directional. In all
            modes parameters that have no Gram matrix get `dimension`, and 0 in the
            figure `has_gram`.
        signal: whose S is taken, and along whose steps the curvature. `gradient`: as
            above. `direction`: C, with N multiplied by what averaging leaves of it (of
            `dual_ema` in this step, exactly, for independent gradients). Static.
        ema_decay: in [0, 1).
        hysteresis: of a difference of scores.
        min_dwell: in steps. With `min_dwell_fraction`, that part of `total_steps`.
        every: steps; rounded to a whole number of at least 1.
        initial: the geometry at the start, for all matrices by a name, or path -> name
            or array of names as `read_choices` gives them. The first measurement is
            then one like any other. None: the first measurement decides, in step 0.
        rate, shares, seed: of `random`: with probability `rate` a matrix changes its
            geometry in a step that is a multiple of `every`, by a draw with
            probabilities `shares` (None: equal ones) that is repeated as often as it
            takes for that, so `rate` is at most 1 - sum of share^2. Draws depend on
            seed, step and path: a resumed run goes on as if it had not stopped.
        mode: how only the chosen is computed. Static. `where`: everything is, and the
            chosen taken. `cond`: polar factors only of parameters with a spectral
            matrix, by a `jax.lax.cond` for each parameter; these are not grouped by
            shape, and a vmap over choices makes it `where`. `host`: the program is that
            of `choices`, whatever is decided; read decisions now and then by
            `read_choices`, and compile anew when they differ.
        choices: of `host`, in the form of `initial`; None is `initial`, or the first
            geometry. Static.
        stats_method: of `jopt.linalg.nuclear_norm`; `quick` works in `compute_dtype`
            (bfloat16: two meshes are up to 1.3 % apart; float32: 4e-6). Static.
        nan_policy: as in `scale_by_orthogonalization`.
        steps, method, coeffs, normalization, compute_dtype, precision, distribute: as
            in `scale_by_orthogonalization`, for the steps that are made.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. In `shard_map`
            choices are those of whole matrices, and the same on all devices.

    A Gram matrix is (batch axes of the view..., fan-in, fan-in); the last batch axes
    may be missing if they share their inputs, as heads of queries do, or be part of the
    fan-in, as heads of an output kernel are.

    Numbers may be traced, those of `shares` included.

    Cost beyond `lion_muon`: a step that measures takes two polar factors (one without
    noise) of 5 (4 m^2 n + 2 m^3) flop for each m x n matrix, m <= n, and for
    `directional` with a Gram matrix 4 fan-in^2 fan-out flop, twice that where Euclidean
    steps are offered; other steps take a branch.
    On average that is divided by `every`. On a mesh it moves what two more polar
    factors move.

    State: `SwitchState`: the momentum, and 12 numbers for each matrix.
    Metrics: `spectral_share` of all matrices; `geometry`, which `layer_metrics` makes
    layer/<path>/..., means over the matrices of a parameter: spec_sign_index (of the
    criterion, against the first other geometry), det_term, noise_term, log_snr_ratio,
    nuclear_rank, noise_scale_sign, _spectral, _euclidean (in batches), spectral_share,
    has_gram.
    Fails: `ConfigError` for an unknown choice, for extra args that are missing, and for
    choices that do not fit; `ShapeError` at init for parameters that cannot be seen as
    matrices, and for Gram matrices that do not fit.

    References: our reconstruction ("derived"): of Naganuma et al. 2026, The geometry of
    spectral gradient descent: layerwise criteria for SignSGD vs SpecSGD (GRaM
    workshop), only the abstract was available. Davis and Drusvyatskiy 2025, arXiv
    2512.04299, for `nuclear_stable`; Beznosikov et al. 2026, LionMuon, arXiv
    2605.19811, for one memory of two geometries. Averages, hysteresis and dwell are
    ours.

    >>> from jopt.transforms import read_choices
    >>> tx = scale_by_geometry_switch(method="svd", min_dwell=0, every=1)
    >>> g = {"w": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> noise = {"w": jnp.array([[0.1, -0.1], [0.1, 0.1]])}
    >>> updates, state = tx.update(g, tx.init(g), half_difference=noise)
    >>> read_choices(state)["w"].tolist(), round(updates["w"][0, 0].item(), 4)
    ([['spectral']], 0.2828)
    """
    check_choice("mode", mode, get_args(SwitchMode))
    check_choice("spectral_scale", spectral_scale, get_args(SpectralScale))
    check_choice("curvature", curvature, get_args(SwitchCurvature))
    check_choice("signal", signal, get_args(SwitchSignal))
    check_choice("stats_method", stats_method, STATS_METHODS)
    offered = read_geometries(geometries)
    if choices is not None and mode != "host":
        raise ConfigError(f"choices belong to mode='host', not to mode={mode!r}")
    if shares is not None and len(shares) != len(offered):
        raise ConfigError(
            f"shares has {len(shares)} numbers for {len(offered)} {offered}"
        )
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        distribute=distribute,
        **where,
    )
    scaled = shape_map("unit_rms", rms=rms, **where)
    polar_scaled = shape_map(spectral_scale, kappa=rms, rms=rms, **where)
    sign_rms = rms if sign_rms is None else sign_rms
    made = GeometrySteps(offered, polar, polar_scaled, scaled, sign_rms)
    rule = SwitchRule(
        criterion=read_criterion(criterion),
        geometries=offered,
        polar=polar_map(
            **{"compute_dtype": compute_dtype}
            | polar_settings(stats_method, jnp.float32),
            distribute="stack" if distribute == "gram" else distribute,
            **where,
        ),
        curvature=curvature,
        signal=signal,
        b1=b1,
        b2=b2,
        ema_decay=ema_decay,
        hysteresis=hysteresis,
        min_dwell=dwell_steps(min_dwell, min_dwell_fraction, total_steps),
        rate=rate,
        shares=shares,
        seed=seed,
    )
    momentum = guarded(dual_ema(b1, b2, mu_dtype=mu_dtype), polar.views, nan_policy)
    reads_grams = "activation_grams" in rule.needs

    def codes(what: str, given: Choices, tree: PyTree) -> dict[str, np.ndarray]:
        singles = Singles.of(polar.views, tree)
        return read_choices_argument(what, given, singles, offered)

    def init(params: PyTree) -> SwitchState:
        start = momentum.init(params)
        first = None if initial is None else codes("initial", initial, params)
        if choices is not None:
            codes("choices", choices, params)
        return SwitchState(
            start,
            jnp.zeros([], jnp.int32),
            **rule.start(params, first)._asdict(),
            grams_due=jnp.array(reads_grams) & is_due(jnp.int32(0), every),
        )

    def update(
        updates: PyTree,
        state: SwitchState,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SwitchState]:
        del params
        direction, average = momentum.update(updates, state.momentum)
        measured = direction if signal == "direction" else updates
        extra = wanted(rule.needs, curvature, extra_args)
        decided = jax.lax.cond(
            is_due(state.step, every),
            lambda old: rule.update(old, state.step, measured, extra),
            lambda old: old,
            state.decided,
        )
        if mode == "host":
            given = choices if choices is not None else initial or offered[0]
            moved = made.static(direction, codes("choices", given, updates))
        else:
            moved = select_steps(made, mode)(direction, decided.choice)
        step = optax.safe_increment(state.step)
        due = jnp.array(reads_grams) & is_due(step, every)
        new = SwitchState(average, step, **decided._asdict(), grams_due=due)
        return optax.tree.cast_like(moved, updates), new

    return optax.GradientTransformationExtraArgs(init, update)
