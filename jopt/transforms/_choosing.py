"""Which geometry a matrix gets next: what speaks for each, and when that suffices."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jopt.criteria import Curvature, GeometryStats, SpecSignIndex, spec_sign_index
from jopt.errors import ConfigError, check_choice
from jopt.transforms._evidence import Evidence
from jopt.transforms._singles import Singles

# T matrices of a tree; G = 3 geometries, in the order of `GEOMETRIES`.

GeometryName = Literal["sign", "spectral", "euclidean"]
GEOMETRIES: tuple[GeometryName, ...] = ("sign", "spectral", "euclidean")
SIGN, SPECTRAL, EUCLIDEAN = range(3)

CriterionName = Literal["spec_sign", "snr", "det", "nuclear_stable", "random"]
Criterion: TypeAlias = (
    CriterionName | Callable[[GeometryStats, Curvature], SpecSignIndex]
)
# These look at the gradient as if it had no noise.
NOISELESS = ("det", "nuclear_stable")
UNDECIDED = -1  # in the place of the step since which a choice holds


def read_criterion(criterion: Criterion) -> Criterion:
    """The criterion, `spec_sign` for the function of that name.

    Fails: `ConfigError` for an unknown name.
    """
    if criterion is spec_sign_index:
        return "spec_sign"
    if not callable(criterion):
        check_choice("criterion", criterion, get_args(CriterionName))
    return criterion


def read_geometries(names: Sequence[str]) -> tuple[GeometryName, ...]:
    """The geometries, once each and in one order.

    Fails: `ConfigError` for an unknown name, or without `spectral` and another.
    """
    for name in names:
        check_choice("geometry", name, GEOMETRIES)
    if len(set(names)) != len(names) or len(names) < 2 or "spectral" not in names:
        raise ConfigError(
            f"geometries are 'spectral' and one or two of 'sign' and 'euclidean', not "
            f"{tuple(names)}"
        )
    return tuple(name for name in GEOMETRIES if name in names)


class Verdict(NamedTuple):
    """What a criterion says of each matrix.

    Attributes:
        scores: (G, T), twice the log of what a step gains, up to a constant of the
            matrix; -inf for a geometry that is not offered or has no signal.
        lead: (T,), the index: how far the spectral step is ahead of the first other
            geometry.
        found: the criterion's result for these two.
    """

    scores: jax.Array
    lead: jax.Array
    found: SpecSignIndex


def judge(
    criterion: Criterion, geometries: Sequence[GeometryName], evidence: Evidence
) -> Verdict:
    """The scores of all geometries, from the index of each pair with `spectral`.

    A geometry whose noise is as large as its signal is out while another's is not, as
    in `jopt.criteria.choose_geometry`; for `det` and `nuclear_stable`, which know no
    noise, one whose gradient is 0. A function decides by its index alone; where that is
    NaN, nothing changes.
    """
    stats = evidence.stats
    against = {"sign": evidence, "euclidean": evidence.without_sign}
    others = [name for name in geometries if name != "spectral"]
    found = {name: _index(criterion, against[name]) for name in others}
    if criterion == "nuclear_stable":
        # log(nr / st), whatever the other geometry is.
        ranks = spec_sign_index(
            against["euclidean"].stats, against["euclidean"].curvature
        )
        found = dict.fromkeys(others, (ranks.det_term, ranks))
    signals = (stats.s_l1, stats.s_nuc, stats.s_fro)
    noises = (stats.n_l1, stats.n_nuc, stats.n_fro)
    scores = []
    for name, signal, noise in zip(GEOMETRIES, signals, noises, strict=True):
        score = -found[name][0] if name in found else jnp.zeros_like(signal)
        heard = jnp.full(signal.shape, name in geometries)
        if not callable(criterion):
            heard &= signal > (0 if criterion in NOISELESS else noise)
        scores.append(jnp.where(heard, score, -jnp.inf))
    lead, first = found[others[0]]
    return Verdict(jnp.stack(scores), lead, first)


def _index(criterion: Criterion, evidence: Evidence) -> tuple[jax.Array, SpecSignIndex]:
    if callable(criterion):
        found = criterion(evidence.stats, evidence.curvature)
        return found.index, found
    found = spec_sign_index(evidence.stats, evidence.curvature)
    by_name = {"det": found.det_term, "snr": 2 * found.log_snr_ratio}
    return by_name.get(criterion, found.index), found


class Choice(NamedTuple):
    """What each matrix has, (T,) each.

    Attributes:
        geometry: int32, a place in `GEOMETRIES`.
        since: int32, the step in which it was chosen, or `UNDECIDED`.
    """

    geometry: jax.Array
    since: jax.Array


def choose(
    scores_GT: jax.Array,
    old: Choice,
    step: jax.Array,
    *,
    hysteresis: jax.typing.ArrayLike,
    min_dwell: jax.typing.ArrayLike,
) -> Choice:
    """The geometry of the highest score, where it is ahead by more than `hysteresis`.

    For two geometries whose signals are above their noise that is: spectral from an
    index above +h on, the other one from below -h on. Where no geometry has a signal
    and where a score is NaN, nothing changes; nor before a choice has held for
    `min_dwell` steps. The first decision waits for neither.

    >>> old = Choice(jnp.array([0, 0]), jnp.array([0, 0]))
    >>> scores = jnp.array([[-0.3, -0.3], [0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
    >>> choose(scores, old, jnp.int32(9), hysteresis=0.1, min_dwell=9).geometry.tolist()
    [1, 0]
    """
    best = jnp.argmax(scores_GT, axis=0).astype(jnp.int32)
    highest, present = (
        jnp.take_along_axis(scores_GT, code[None], axis=0)[0]
        for code in (best, old.geometry)
    )
    undecided = old.since == UNDECIDED
    # inf - inf is NaN, and no comparison with NaN is true.
    ahead = (highest - present > hysteresis) & (step - old.since >= min_dwell)
    new = jnp.where(undecided, highest > -jnp.inf, ahead)
    return Choice(jnp.where(new, best, old.geometry), jnp.where(new, step, old.since))


def toss(
    draws_2T: jax.Array,
    old: Choice,
    step: jax.Array,
    geometries: Sequence[GeometryName],
    *,
    rate: jax.typing.ArrayLike,
    shares: Sequence[jax.typing.ArrayLike] | None,
) -> Choice:
    """A choice that knows nothing: each matrix changes with probability `rate`.

    With probability rate / (1 - sum of share^2) a geometry is drawn with probabilities
    `shares`, by default equal ones. In the long run each has its share, and the rate of
    changes is `rate`, up to 1 - sum of share^2. What is not decided is drawn.

    Args:
        draws_2T: uniform in [0, 1).
    """
    count = len(geometries)
    weights = jnp.asarray([1 / count] * count if shares is None else shares)
    weights = weights / weights.sum()
    again = draws_2T[0] < rate / (1 - jnp.sum(weights**2))
    drawn = jnp.sum(draws_2T[1] >= jnp.cumsum(weights)[:-1, None], axis=0)
    codes = jnp.asarray([GEOMETRIES.index(name) for name in geometries], jnp.int32)
    undecided = old.since == UNDECIDED
    geometry = jnp.where(undecided | again, codes[drawn], old.geometry)
    new = undecided | (geometry != old.geometry)
    return Choice(geometry, jnp.where(new, step, old.since))


def draws(
    singles: Singles,
    seed: jax.typing.ArrayLike,
    step: jax.Array,
    cut: Mapping[str, tuple[str, ...]],
) -> jax.Array:
    """Uniform numbers (2, T) that depend on seed, step, path and place in the leaf.

    `cut`: path -> mesh axes over whose devices the matrices of a leaf are shared out.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    parts = []
    for path, rows in singles.rows.items():
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        if names := cut[path]:
            own = jax.random.fold_in(own, jax.lax.axis_index(names))
        parts.append(jax.random.uniform(own, (2, rows.stop - rows.start)))
    return jnp.concatenate(parts, axis=1)


def averaged(
    old: jax.Array, weight: jax.Array, new: jax.Array, decay: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Means (F, T) over measurements with weights decay^age, and the sums of these.

    That is an exponential average with its bias corrected: (1 - decay) times the sum of
    the weights is 1 - decay^count. A matrix with a number that is not finite keeps its
    averages.

    >>> mean, weight = averaged(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones((1, 1)), 0.5)
    >>> mean, weight = averaged(mean, weight, jnp.full((1, 1), 4.0), 0.5)
    >>> mean.tolist(), weight.tolist()
    ([[3.0]], [0.75])
    """
    more = decay * weight + (1 - decay)
    mean = old + (1 - decay) / more * (new - old)
    sound = jnp.all(jnp.isfinite(new), axis=0)
    return jnp.where(sound, mean, old), jnp.where(sound, more, weight)


def dwell_steps(
    steps: jax.typing.ArrayLike,
    fraction: Any,
    total: Any,
) -> jax.typing.ArrayLike:
    """What `min_dwell` is in steps, where it may be a fraction of all of them.

    >>> dwell_steps(100, None, None), dwell_steps(100, 0.5, 8)
    (100, 4.0)
    """
    if fraction is None:
        return steps
    if total is None:
        raise ConfigError(
            "min_dwell_fraction is a part of total_steps; set that as well"
        )
    return fraction * total
