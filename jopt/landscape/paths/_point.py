"""One gradient against the way from the end of the path to here."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.linalg import widened
from jopt.linalg._tree_vectors import real_dtype, tree_inner
from jopt.tree import PyTree, named_leaves


class PathPoint(NamedTuple):
    """The numbers of `path_point`: scalars of at least float32, and `valid`.

    With d = w - w*, gradient g and applied update Delta:

    Attributes:
        distance: ||d||.
        grad_norm: ||g||.
        inner: <g, d>.
        rsi: <g, d> / ||d||^2.
        eb: ||g|| / ||d||.
        gamma: rsi / eb, the cosine of g and d; above 0: no wrong turn.
        local_lr: <g, d> / ||g||^2, signed; the step w - local_lr g is the one that ends
            nearest to w*, and its factor on ||d||^2 is 1 - gamma^2.
        valid: false where w = w* or a number is not finite; no ratio is one then.
        gamma_excl: (<g, d> + <g, Delta>) / (||g|| ||d||): gamma without what this very
            step puts into d. For SGD it is (<g, d> - eta ||g||^2) / (||g|| ||d||).
        update_norm: ||Delta||.
        update_gamma: the cosine of -Delta and d.
        update_lr: <-Delta, d> / ||Delta||^2, the factor on the update that would have
            ended nearest to w*.

    The last four are NaN where no update was given.
    """

    distance: jax.Array
    grad_norm: jax.Array
    inner: jax.Array
    rsi: jax.Array
    eb: jax.Array
    gamma: jax.Array
    local_lr: jax.Array
    valid: jax.Array
    gamma_excl: jax.Array
    update_norm: jax.Array
    update_gamma: jax.Array
    update_lr: jax.Array


def path_point(
    params: PyTree,
    grads: PyTree,
    reference: PyTree,
    *,
    updates: PyTree | None = None,
    weight_decay: PyTree = 0.0,
) -> PathPoint:
    """RSI, EB and gamma of a gradient g at w, against a reference w*.

        RSI = <g, w - w*> / ||w - w*||^2,   EB = ||g|| / ||w - w*||,   gamma = RSI / EB

    over the whole tree. For any step eta, exactly,

        ||w - eta g - w*||^2 = ||w - w*||^2 (1 - 2 eta RSI + eta^2 EB^2)

    Args:
        params: w. Leaves are brought to at least float32 before they are subtracted,
            so a bfloat16 path keeps what its numbers say.
        grads: g, with the shapes of w.
        reference: w*, usually the last iterate, with the shapes of w.
        updates: Delta, what the optimizer adds to w at this step.
        weight_decay: lambda; g + lambda w is measured. A number or a tree like w.

    Returns: `PathPoint`. Where w = w*, or nothing has an entry, every ratio is 0 and
    `valid` is false. Where g = 0, gamma and local_lr are 0. NaN stays NaN, and not
    valid. Complex leaves count by the real part of the conjugated product.

    Numerics: both vectors are divided by their largest entry before products are
    summed, so ratios are right from 1e-30 to 1e30 and beyond; `inner` itself may
    overflow there. Sums are float32, or wider where a leaf is. Against float64, 1e7
    Gaussian entries gave an error of gamma below 1e-9 on a CPU.
    Cost: reads the trees twice; no copy of them is kept. On a mesh XLA joins what is
    sent: one message of the largest entries and one of all sums, for each set of mesh
    axes that leaves are cut along, however many leaves there are. Inside `shard_map`
    leaves must be whole, and gradients averaged over the shards of the batch first.
    Fails: `ShapeError` where a tree does not have the leaves of `params`.
    Reference: Guille-Escuret et al., ICML 2024, arXiv 2306.11922. They measure g; the
    self term, the update and the decayed gradient are ours.

    >>> w, end = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.zeros(2)}
    >>> point = path_point(w, {"w": jnp.array([6.0, 8.0])}, end)  # of f = ||w||^2
    >>> [round(float(x), 6) for x in (point.rsi, point.eb, point.gamma, point.local_lr)]
    [2.0, 2.0, 1.0, 0.5]
    """
    same_leaves(params, grads=grads, reference=reference, updates=updates)
    offset = jax.tree.map(lambda w, end: widened(w) - widened(end), params, reference)
    grads = with_decay(grads, params, weight_decay)
    steps = None if updates is None else jax.tree.map(lambda u: -widened(u), updates)
    return _point(*_products(offset, grads, steps))


def with_decay(grads: PyTree, params: PyTree, weight_decay: PyTree) -> PyTree:
    """g + lambda w, in at least float32.

    >>> with_decay({"a": jnp.ones(1)}, {"a": jnp.ones(1)}, {"a": 0.5})["a"].tolist()
    [1.5]
    """
    decay = weight_decay
    if jax.tree_util.all_leaves([weight_decay]):  # a number for all
        decay = jax.tree.map(lambda _: weight_decay, params)
    return jax.tree.map(
        lambda g, w, rate: widened(g) + rate * widened(w), grads, params, decay
    )


class _Products(NamedTuple):
    """Sums of products of vectors whose largest entry is 1."""

    dd: jax.Array
    gg: jax.Array
    dg: jax.Array
    uu: jax.Array
    du: jax.Array
    gu: jax.Array


class _Sizes(NamedTuple):
    """What the vectors were divided by."""

    d: jax.Array
    g: jax.Array
    u: jax.Array


def _products(d: PyTree, g: PyTree, u: PyTree | None) -> tuple[_Sizes, _Products]:
    dtype = real_dtype((d, g))
    if not any(leaf.size for leaf in jax.tree.leaves(d)):
        zero = jnp.zeros((), dtype)
        of_u = zero if u is not None else jnp.full((), jnp.nan, dtype)
        return _Sizes(zero, zero, of_u), _Products(*[zero] * 3, *[of_u] * 3)
    # All the largest entries first, then all the sums: two messages on a mesh.
    vectors = [d, g] if u is None else [d, g, u]
    largest = jnp.stack([_largest(tree, dtype) for tree in vectors])
    usable = (largest != 0) & ~jnp.isinf(largest)  # a NaN stays in sight
    scale = jnp.where(usable, largest, 1)
    d, g, *rest = (
        jax.tree.map(lambda x, s=s: x / s, tree)
        for tree, s in zip(vectors, list(scale), strict=True)
    )
    nan = jnp.full((), jnp.nan, dtype)
    pairs = [(d, d), (g, g), (d, g)]
    pairs += [(x, y) for u in rest for x, y in ((u, u), (d, u), (g, u))]
    sums = jnp.stack([tree_inner(x, y) for x, y in pairs])
    missing = [nan] * (6 - len(pairs))
    return _Sizes(*scale, *missing[:1]), _Products(*sums, *missing)


def _point(size: _Sizes, of: _Products) -> PathPoint:
    distance, grad_norm = size.d * jnp.sqrt(of.dd), size.g * jnp.sqrt(of.gg)
    moved = of.dd != 0
    finite = jnp.isfinite(distance) & jnp.isfinite(grad_norm) & jnp.isfinite(of.dg)
    root_d, root_g, root_u = jnp.sqrt(of.dd), jnp.sqrt(of.gg), jnp.sqrt(of.uu)
    gamma = _ratio(_ratio(of.dg, root_g), root_d)
    self_term = _ratio(size.u, size.d) * _ratio(_ratio(of.gu, root_g), root_d)
    return PathPoint(
        distance=distance,
        grad_norm=grad_norm,
        inner=size.d * (size.g * of.dg),
        rsi=jnp.where(moved, _ratio(size.g, size.d) * _ratio(of.dg, of.dd), 0),
        eb=jnp.where(moved, _ratio(size.g, size.d) * _ratio(root_g, root_d), 0),
        gamma=gamma,
        local_lr=_ratio(size.d, size.g) * _ratio(of.dg, of.gg),
        valid=moved & finite,
        gamma_excl=gamma - self_term,
        update_norm=size.u * root_u,
        update_gamma=_ratio(_ratio(of.du, root_u), root_d),
        update_lr=_ratio(size.d, size.u) * _ratio(of.du, of.uu),
    )


def _ratio(top: jax.Array, bottom: jax.Array) -> jax.Array:
    """0 where the bottom is 0."""
    none = bottom == 0
    return jnp.where(none, 0, top / jnp.where(none, 1, bottom))


def _largest(tree: PyTree, dtype: jnp.dtype) -> jax.Array:
    leaves = [jnp.abs(leaf) for leaf in jax.tree.leaves(tree) if leaf.size]
    return jnp.max(jnp.stack([jnp.max(leaf).astype(dtype) for leaf in leaves]))


def same_leaves(params: PyTree, **others: PyTree | None) -> None:
    """Fails: `ShapeError` where a tree has other leaves than `params`.

    >>> same_leaves({"a": jnp.ones(2)}, reference={"a": jnp.ones(2)})
    """
    wanted = _shapes(params)
    for name, tree in others.items():
        if tree is None or (found := _shapes(tree)) == wanted:
            continue
        path = next(p for p in (wanted | found) if wanted.get(p) != found.get(p))
        raise ShapeError(
            f"{name} must have the leaves of params: {path or 'the only leaf'} is "
            f"{found.get(path, 'absent')} there and {wanted.get(path, 'absent')} in "
            "params"
        )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path: jnp.shape(leaf) for path, leaf in named_leaves(tree).items()}
