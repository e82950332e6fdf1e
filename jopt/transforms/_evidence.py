"""What speaks for each geometry: signal, noise and curvature of every matrix.

The norms are those of `jopt.criteria`; here they are taken where the matrices are, also
on a mesh, and the polar factors behind the nuclear norms come from one dispatch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jopt.criteria import Curvature, Directions, GeometryStats, curvature_constants
from jopt.criteria._together import on_shared_grams
from jopt.errors import ConfigError
from jopt.linalg import normalize, op_norm, widened
from jopt.matrix import MatrixSpec
from jopt.transforms._dispatch import Spread
from jopt.transforms._gram_forms import gram_forms
from jopt.transforms._layout import Layout
from jopt.transforms._norms import matrix_norm
from jopt.transforms._polar import PolarMap
from jopt.transforms._singles import Singles
from jopt.transforms._views import Views
from jopt.tree import PyTree, named_leaves

# T matrices of a tree; S stacked matrices; B distinct Gram matrices; M fan-in; N
# fan-out.

SwitchCurvature = Literal["auto", "directional", "worst_case", "dimension"]


class Evidence(NamedTuple):
    """One number for each matrix in every field.

    Attributes:
        s_nuc, n_nuc, s_l1, n_l1, s_fro, n_fro: see `jopt.criteria.GeometryStats`.
        l_max, l_op, l_fro: curvature against a unit step of sign, spectral and
            Euclidean geometry, up to a common factor.
    """

    s_nuc: jax.Array
    n_nuc: jax.Array
    s_l1: jax.Array
    n_l1: jax.Array
    s_fro: jax.Array
    n_fro: jax.Array
    l_max: jax.Array
    l_op: jax.Array
    l_fro: jax.Array

    @property
    def stats(self) -> GeometryStats:
        """Signal and noise."""
        return GeometryStats(*self[:6])

    @property
    def curvature(self) -> Curvature:
        """That of the sign and the spectral step."""
        return Curvature(self.l_max, self.l_op)

    @property
    def without_sign(self) -> Evidence:
        """With the Euclidean geometry in the place of the sign.

        An index that compares the spectral step with the sign then compares it with the
        Euclidean step.
        """
        return self._replace(s_l1=self.s_fro, n_l1=self.n_fro, l_max=self.l_fro)


def gather_evidence(
    signal: PyTree,
    noise: PyTree | None,
    grams: Mapping[str, jax.Array],
    *,
    polar: PolarMap,
    mode: SwitchCurvature,
    euclidean: bool,
    singles: Singles,
) -> Evidence:
    """The evidence of all matrices, each field (T,).

    Args:
        signal: the gradients, or their momentum.
        noise: half the difference of the gradients of two halves of the batch; a tree
            that has the leaves of `signal`. None: there is none.
        grams: path -> activation Gram matrix, see `fit_gram`; leaves that it lacks have
            `dimension` curvature.
        polar: an accurate one.
        euclidean: whether `l_fro` is wanted; it is 1 where it is not.

    Fails: `ConfigError` for a leaf without noise; `ShapeError` for a Gram matrix that
    does not fit.
    """
    specs = polar.views.specs(signal)
    trees = [named_leaves(jax.tree.map(widened, signal))]
    if noise is not None:
        trees.append(_beside(trees[0], noise))
    polars = _polar_factors(polar, specs, trees)
    forms = (
        {}
        if mode == "dimension"
        else gram_forms(polar.views.layout, specs, grams, trees[0])
    )
    known = {}
    if mode == "worst_case":
        known = on_shared_grams(
            partial(curvature_constants, fan_in=1, fan_out=1), forms
        )
    by_path: dict[str, tuple[dict[str, jax.Array], ...]] = {}
    for path, spec in specs.items():
        _, gram = forms.get(path, (None, None))
        pairs = zip(trees, polars, strict=True)
        stacks = [{path: tree[path]} for pair in pairs for tree in pair]
        alone = polar.views.among({path: spec})
        fn = partial(_evidence, gram, known.get(path), euclidean)
        by_path[path] = alone.map(fn, *stacks, count=len(Evidence._fields))
    fields = (
        {path: found[i][path] for path, found in by_path.items()}
        for i in range(len(Evidence._fields))
    )
    return Evidence(*map(singles.flat, fields))


def _beside(leaves: Mapping[str, jax.Array], noise: PyTree) -> dict[str, jax.Array]:
    found = named_leaves(noise)
    missing = [path for path in leaves if path not in found]
    if missing:
        raise ConfigError(
            f"half_difference has no leaf {missing[0]!r}; it is a tree like the "
            "gradients (in optax.partition set mask_compatible_extra_args=True)"
        )
    return {path: widened(found[path]) for path in leaves}


def _polar_factors(
    polar: PolarMap,
    specs: Mapping[str, MatrixSpec],
    trees: Sequence[Mapping[str, jax.Array]],
) -> list[dict[str, jax.Array]]:
    """The polar factors of all trees, taken together: half as many, larger calls."""
    together = {path: jnp.stack([tree[path] for tree in trees]) for path in specs}
    layout = polar.views.layout
    if layout is not None:
        layout = Layout(
            layout.mesh, {p: PartitionSpec(None, *at) for p, at in layout.specs.items()}
        )
    views = Views({path: spec.stacked() for path, spec in specs.items()}, layout)
    found = dataclasses.replace(polar, views=views)(together)
    return [{path: x[i] for path, x in found.items()} for i in range(len(trees))]


def _evidence(
    gram_BMM: jax.Array | None,
    worst_case: Curvature | None,
    euclidean: bool,
    spread: Spread,
    *stacks: jax.Array,
) -> tuple[jax.Array, ...]:
    """The fields of `Evidence`, (S, 1, 1) each."""
    signal, polar = stacks[:2]
    pairs = [(signal, polar), stacks[2:] or (jnp.zeros_like(signal),) * 2]
    norms = [_dual_norms(spread, *pair) for pair in pairs]
    constants = _constants(gram_BMM, worst_case, euclidean, spread, signal, polar)
    one_S11 = jnp.ones((len(signal), 1, 1), jnp.float32)
    numbers = [norm for both in zip(*norms, strict=True) for norm in both]
    return tuple(
        jnp.asarray(x, jnp.float32).reshape(-1, 1, 1) * one_S11
        for x in (*numbers, *constants)
    )


def _dual_norms(spread: Spread, x: jax.Array, polar: jax.Array) -> list[jax.Array]:
    """Nuclear, l1 and Frobenius norm, (S, 1, 1) each."""
    nuclear, l1 = (
        spread.sum(jnp.sum(terms, axis=(1, 2), keepdims=True))
        for terms in ((x.conj() * polar).real, jnp.abs(x))
    )
    return [nuclear, l1, matrix_norm(spread, x)]


def _constants(
    gram_BMM: jax.Array | None,
    worst_case: Curvature | None,
    euclidean: bool,
    spread: Spread,
    x_SMN: jax.Array,
    polar_SMN: jax.Array,
) -> tuple[jax.Array, ...]:
    """l_max, l_op and l_fro: numbers, or one for each matrix.

    `worst_case` is that of `gram_BMM` with a fan-out of 1; None for `directional`.
    """
    fan_in, fan_out = x_SMN.shape[1] * spread.rows, x_SMN.shape[2] * spread.columns
    constants = partial(curvature_constants, fan_in=fan_in, fan_out=fan_out)
    if gram_BMM is None:
        l_max, l_op = _known(constants(None, mode="dimension"))
        # As l_max: in the middle of what is possible, from 1 / n to 1.
        return l_max, l_op, l_op / max(fan_in, 1) ** 0.5
    if worst_case is not None:
        l_max, l_op = _known(worst_case)
        largest_B = op_norm(gram_BMM, "power") if euclidean else jnp.ones_like(l_op)
        each = len(x_SMN) // len(gram_BMM)
        return tuple(jnp.repeat(x, each) for x in (fan_out * l_max, l_op, largest_B))

    def forms(first_SMN: jax.Array) -> list[jax.Array]:
        """Along this step and the spectral one."""
        # Products with C need whole columns; what they give adds up over columns.
        # Matrices that share a C stay together, so that it need not be copied.
        ways = [
            _whole_columns(spread, d_SMN).reshape(len(gram_BMM), -1, fan_in, columns)
            for d_SMN in (first_SMN, polar_SMN)
        ]
        directions = Directions(*ways)
        found = constants(gram_BMM[:, None], mode="directional", directions=directions)
        return [spread.sum_columns(x.reshape(-1, 1, 1)) for x in _known(found)]

    columns = x_SMN.shape[2]
    l_max, l_op = forms(jnp.sign(x_SMN))
    if not euclidean:
        return l_max, l_op, jnp.ones_like(l_op)
    unit_SMN = normalize(x_SMN, axis_name=spread.names or None)
    return l_max, l_op, forms(unit_SMN)[0]


def _known(curvature: Curvature) -> tuple[jax.Array, jax.Array]:
    l_max, l_op = curvature
    assert l_max is not None and l_op is not None
    return l_max, l_op


def _whole_columns(spread: Spread, d_SMN: jax.Array) -> jax.Array:
    if not spread.row_names:
        return d_SMN
    return jax.lax.all_gather(d_SMN, spread.row_names, axis=1, tiled=True)
