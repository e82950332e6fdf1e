"""How large a gradient and its noise are, in the dual norm of each geometry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._views import View, each_matrix, leaves_with_views
from jopt.errors import ShapeError, check_choice
from jopt.linalg import frobenius_norm, geometry, nuclear_norm, widened
from jopt.linalg._finite import check_matrices
from jopt.linalg._norms import NuclearMethod
from jopt.linalg._stacks import join_matrices
from jopt.matrix import MatrixSpec, as_matrix_spec
from jopt.tree import PyTree

# S stacked matrices; M, N fan-in and fan-out.

# Not `eigh`, which drops small singular values, and never the quintic of Muon.
STATS_METHODS = ("quick", "polar", "svd")


class GeometryStats(NamedTuple):
    """Signal and noise of a gradient in three dual norms; float32, one per matrix.

    Attributes:
        s_nuc, s_l1, s_fro: signal S_g = E||G-hat||_*, in the nuclear norm (spectral
            geometry), sum |g_ij| (sign) and the Frobenius norm (Euclidean).
        n_nuc, n_l1, n_fro: noise N_g = E||G-hat - G||_*, in the same norms.
    """

    s_nuc: jax.Array
    n_nuc: jax.Array
    s_l1: jax.Array
    n_l1: jax.Array
    s_fro: jax.Array
    n_fro: jax.Array


def half_split_stats(
    g_a: jax.Array,
    g_b: jax.Array,
    matrix_spec: View = None,
    *,
    method: NuclearMethod = "polar",
) -> GeometryStats:
    """Signal and noise of a gradient from the mean gradients of its batch's two halves.

    With G-hat = (G_a + G_b) / 2 and Delta = (G_a - G_b) / 2, the signal is ||G-hat||_*
    and the noise ||Delta||_*. The halves are independent, so Delta has the covariance
    of G-hat - G, and the same law if that is symmetric: in every norm E||Delta||_* is
    then E||G-hat - G||_* at the full batch size, without a model of how noise falls
    with the batch. One draw: average over steps before taking ratios.

    Args:
        g_a, g_b: mean gradients of the first and the second half of the batch.
        matrix_spec: how they are seen as matrices; None: the last two axes are (fan-in,
            fan-out), all others batch.
        method: of the nuclear norm. `polar`: products only, see `nuclear_norm`; within
            3 % of `svd` on what was tried, and low where many singular values are below
            1e-3 ||X||_F. `quick`: fewer of them, and as near to `svd`, but to both
            sides of it. `svd`: exact.

    Returns: float32 (wider for wider input) of the leading axes; with a `matrix_spec`
    of shape (S,), its matrices block after block as `MatrixSpec.blocks` lists them.
    Zero, and arrays without elements, give zero; NaN or infinity in a matrix gives NaN
    for that one.

    Cost: two nuclear norms, in `polar` 2 * 8 (4 M^2 N + 2 M^3) flop, M <= N.

    Fails: `ShapeError` for integers, different shapes, or fewer than two axes;
    `ConfigError` for another method.

    References: our reconstruction ("derived"); the index it is for is that of Naganuma
    et al. 2026, The geometry of spectral gradient descent: layerwise criteria for
    SignSGD vs SpecSGD (GRaM workshop), of which only the abstract was available.

    >>> stats = half_split_stats(jnp.eye(2) * 3, jnp.eye(2))
    >>> float(stats.s_nuc.round(3)), float(stats.n_nuc.round(3)), float(stats.n_l1)
    (4.0, 2.0, 2.0)
    """
    _check_alike("half_split_stats", matrix_spec, g_a, g_b)
    half_a, half_b = widened(g_a) / 2, widened(g_b) / 2
    return signal_noise_stats(
        half_a + half_b, half_a - half_b, matrix_spec, method=method
    )


def signal_noise_stats(
    mean: jax.Array,
    half_difference: jax.Array,
    matrix_spec: View = None,
    *,
    method: NuclearMethod = "polar",
    polar: jax.Array | None = None,
) -> GeometryStats:
    """Signal and noise from G-hat and Delta, as `half_split_stats` from the halves.

    Args:
        mean: the gradient, or the momentum (see `with_momentum`).
        half_difference: half the difference of the halves' gradients, as the oracle and
            `mean_and_half_difference` give it.
        polar: polar(G-hat) as `steepest_directions` has it, where it is at hand; s_nuc
            is then <G-hat, polar> and costs nothing. Not that of a spectral step, whose
            few iterations leave singular values up to 16 % off.

    The other arguments, the result, cost and errors are those of `half_split_stats`.

    >>> stats = signal_noise_stats(jnp.ones((2, 2)), jnp.zeros((2, 2)))
    >>> float(stats.s_l1), float(stats.s_fro), float(stats.n_nuc)
    (4.0, 2.0, 0.0)
    """
    check_choice("method of the statistics", method, STATS_METHODS)
    _check_alike("signal_noise_stats", matrix_spec, mean, half_difference)

    def stats(
        mean: jax.Array, difference: jax.Array, *known: jax.Array
    ) -> GeometryStats:
        if known:
            n_nuc, s_nuc = nuclear_norm(difference, method), inner(mean, *known)
        else:
            both = jnp.stack([widened(mean), widened(difference)])
            s_nuc, n_nuc = nuclear_norm(both, method)
        norms = [fn(x) for fn in (_l1, frobenius_norm) for x in (mean, difference)]
        return GeometryStats(s_nuc, n_nuc, *norms)

    known = () if polar is None else (polar,)
    return each_matrix(stats, matrix_spec, mean, half_difference, *known)


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """<X, Y> in float32 or wider, (..., M, N) -> (...).

    >>> float(inner(jnp.ones((2, 2)), jnp.eye(2)))
    2.0
    """
    return jnp.sum(widened(x) * widened(y), axis=(-2, -1))


def with_momentum(
    stats: GeometryStats, beta: jax.typing.ArrayLike, *, nesterov: bool = False
) -> GeometryStats:
    """Statistics of a momentum M <- beta M + (1 - beta) G from those of the gradient.

    The noise of an average with weights (1 - beta) beta^k over independent gradients is
    sqrt((1 - beta) / (1 + beta)) times that of one. With `nesterov`, for (1 - beta) G +
    beta M of the new M, it is (1 - beta) sqrt((1 + beta)^2 + beta^4 / (1 - beta^2))
    times: 0.174 for beta = 0.95, where the plain average has 0.160. The signal has to
    be that of the momentum already.

    Args:
        stats: with the momentum's signal (`signal_noise_stats(momentum, Delta)`).
        beta: in [0, 1), may be traced.
        nesterov: static.

    >>> one = jnp.ones(())
    >>> round(float(with_momentum(GeometryStats(*[one] * 6), 0.6).n_nuc), 3)
    0.5
    """
    beta = jnp.asarray(beta)
    factor = jnp.sqrt((1 - beta) / (1 + beta))
    if nesterov:
        factor = (1 - beta) * jnp.sqrt((1 + beta) ** 2 + beta**4 / (1 - beta**2))
    return stats._replace(
        n_nuc=factor * stats.n_nuc,
        n_l1=factor * stats.n_l1,
        n_fro=factor * stats.n_fro,
    )


def tree_stats(
    mean: PyTree,
    half_difference: PyTree,
    specs: Mapping[str, MatrixSpec],
    *,
    method: NuclearMethod = "polar",
    polar: PyTree | None = None,
) -> dict[str, GeometryStats]:
    """`signal_noise_stats` of every leaf that has a view, by path.

    Matrices of one shape, tall or wide, are one batched call wherever they are. Their
    norms are those of whole matrices: under `jit` leaves may be sharded in any way, and
    XLA moves what the products need; inside `shard_map` they have to be whole.

    Args:
        mean, half_difference: trees of one structure, or that have the paths of `specs`
            in common.
        specs: path -> view; leaves without one are left out.
        polar: tree of polar(G-hat), as `tree_directions` has it, where it is at hand.

    Fails: `ConfigError` for a path that is missing; `ShapeError` names the leaf.

    >>> tree = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    >>> stats = tree_stats(tree, tree, {"w": MatrixSpec((0,), (1,))})
    >>> stats["w"].s_l1.tolist()
    [4.0]
    """
    check_choice("method of the statistics", method, STATS_METHODS)
    trees = (mean, half_difference) if polar is None else (mean, half_difference, polar)
    unknown: dict[str, dict[str, jax.Array]] = {"n": {}, "s": {}}
    leaves = leaves_with_views(specs, *trees)
    for path, (signal, noise, *_) in leaves.items():
        _check_alike(path, specs[path], signal, noise)
        unknown["n"][path] = widened(noise)
        if polar is None:
            unknown["s"][path] = widened(signal)
    nuclear = _nuclear_norms(unknown, specs, method)

    def stats(path: str) -> GeometryStats:
        signal, noise, *known = leaves[path]
        spec = specs[path]
        if known:
            s_nuc = each_matrix(inner, spec, signal, *known)
        else:
            s_nuc = nuclear[f"s/{path}"]
        norms = [
            each_matrix(fn, spec, x)
            for fn in (_l1, frobenius_norm)
            for x in (signal, noise)
        ]
        return GeometryStats(s_nuc, nuclear[f"n/{path}"], *norms)

    return {path: stats(path) for path in specs}


def _nuclear_norms(
    parts: Mapping[str, Mapping[str, jax.Array]],
    specs: Mapping[str, MatrixSpec],
    method: NuclearMethod,
) -> dict[str, jax.Array]:
    """Nuclear norms by `part/path`; matrices of one shape are one call."""
    views = {
        f"{part}/{path}": as_matrix_spec(specs[path])
        for part, leaves in parts.items()
        for path in leaves
    }
    found: dict[str, dict[int, jax.Array]] = {}
    for group in join_matrices(parts, views):
        norms_S = nuclear_norm(group.stack, method)
        for (name, block), rows in group.members.items():
            found.setdefault(name, {})[block] = norms_S[rows]
    return {
        name: jnp.concatenate([blocks[block] for block in sorted(blocks)])
        for name, blocks in found.items()
    }


def _l1(x: jax.Array) -> jax.Array:
    return geometry("sign").dual_norm(x)


def _check_alike(who: str, view: View, first: jax.Array, second: jax.Array) -> None:
    for x in (first, second):
        # Where there is a view, it says itself what it misses.
        check_matrices(who, x, axes=2 if view is None else 0)
    if first.shape != second.shape:
        raise ShapeError(
            f"{who}: gradients of shapes {first.shape} and {second.shape}; both are of "
            "one weight"
        )
