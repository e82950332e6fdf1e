"""Geometries: a norm for weights, its dual for gradients, and the steepest direction.

Steepest descent in a norm ||.|| goes along the D that maximises <G, D> = Re tr(G^H D)
over ||D|| <= 1, and <G, D> is then the dual norm of G. A weight is seen as in
`jopt.matrix`: the last two axes are fan-in and fan-out and all others are batch axes,
so y = x W, where x is a row of activations. `rms_vector` looks at the last axis only.

With fan-in n, fan-out m, s_1 the largest singular value, nuc their sum, |.| the
Euclidean norm of a vector, W_i. the weights of input i and W_.j those of output j:

| name       | norm of W            | dual norm of G       | D                        |
|------------|----------------------|----------------------|--------------------------|
| euclidean  | |W|                  | |G|                  | G / |G|                  |
| sign       | largest |W_ij|       | sum |G_ij|           | sign(G_ij)               |
| spectral   | s_1                  | nuc                  | polar(G)                 |
| rms_to_rms | sqrt(n/m) s_1        | sqrt(m/n) nuc        | sqrt(m/n) polar(G)       |
| column     | largest |W_i.| / √m  | √m sum |G_i.|        | √m G_i. / |G_i.|         |
| row        | √n largest |W_.j|    | sum |G_.j| / √n      | G_.j / |G_.j| / √n       |
| nuclear    | nuc                  | s_1                  | u_1 v_1^H                |
| rms_vector | |b| / √d             | √d |g|               | √d g / |g|               |

`column` is the operator norm from l1 to RMS, for embeddings, whose inputs are one-hot;
its columns, W_i., are those of the textbook matrix W^T that multiplies from the left.
`row` is that from RMS to the largest entry, for output layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.errors import check_choice
from jopt.linalg._exact import svd_polar
from jopt.linalg._finite import check_matrices, on_finite, widened
from jopt.linalg._lapack import svd
from jopt.linalg._normalization import normalize
from jopt.linalg._norms import frobenius_norm, nuclear_norm, op_norm

Function = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A norm and its steepest direction.

    The functions take (..., fan-in, fan-out), or (..., d) for `rms_vector`. A matrix
    with NaN or infinity gives NaN in all of them and leaves the others alone; nothing
    on the way overflows or vanishes at any scale of the input.

    Attributes:
        name: in `GEOMETRIES`.
        norm: of a weight; shape (...), float32 or wider.
        dual_norm: of a gradient; shape (...), float32 or wider.
        lmo: the unit direction D of steepest increase, in the shape and dtype of G; a
            step is minus that. It maximises <G, D>, so it is minus what the literature
            on conditional gradients calls the linear minimisation oracle. Zero gives
            zero, also for one entry (`sign`), row or column.
    """

    name: str
    norm: Function
    dual_norm: Function
    lmo: Function


def geometry(name: str) -> Geometry:
    """The geometry of that name; `ConfigError` if there is none.

    References: Bernstein and Newhouse 2024, Old optimizer, new norm, arXiv 2409.20325;
    Pethick et al. 2025, Scion, arXiv 2502.07529. The dual of `rms_vector` is derived
    here.

    >>> g = jnp.array([[3.0, -4.0]])  # fan-in 1, fan-out 2
    >>> float(geometry("sign").dual_norm(g)), geometry("sign").lmo(g).tolist()
    (7.0, [[1.0, -1.0]])
    >>> round(float(geometry("column").dual_norm(g)), 4)
    7.0711
    """
    check_choice("geometry", name, GEOMETRIES)
    return GEOMETRIES[name]


def steepest_direction(
    g: jax.Array, geometry: str | Geometry, *, regularised: bool = False
) -> jax.Array:
    """D, or ||G||_dual D if `regularised`, which a step subtracts.

    W - eta D is steepest descent at a fixed step length and needs eta to fall to
    converge; W - eta ||G||_dual D minimises <G, D> + ||D||^2 / (2 eta) over D and
    converges on an L-smooth loss with any constant eta < 2 / L [quoted].

    Args:
        g: (..., fan-in, fan-out), or (..., d) for `rms_vector`.
        geometry: a name in `GEOMETRIES`, or one of your own. Static.
        regularised: whether the gradient's size enters. Static.

    Returns: shape and dtype of `g`; see `Geometry` for zero, NaN and scale. D does not
    depend on the scale of G, and the regularised direction is proportional to it.

    Cost: one singular value decomposition for the spectral geometries (two if
    regularised), else a few passes over G.

    Fails: `ConfigError` for an unknown name; `ShapeError` for integers or too few axes.

    >>> g = jnp.array([[3.0, 0.0], [0.0, -1.0]])
    >>> steepest_direction(g, "spectral").round(4).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    >>> steepest_direction(g, "spectral", regularised=True).round(4).tolist()
    [[4.0, 0.0], [0.0, -4.0]]
    """
    if isinstance(geometry, str):
        check_choice("geometry", geometry, GEOMETRIES)
        geometry = GEOMETRIES[geometry]
    if not regularised:
        return geometry.lmo(g)
    wide = widened(g)
    direction, size = geometry.lmo(wide), geometry.dual_norm(wide)
    missing = direction.ndim - size.ndim
    return (size[(...,) + (None,) * missing] * direction).astype(g.dtype)


def _figure(fn: Function) -> Function:
    """`fn` of finite matrices in float32 or wider, (..., M, N) -> (...)."""

    def norm(x: jax.Array) -> jax.Array:
        check_matrices("a norm", x)
        x = widened(x)
        if x.size == 0:
            return frobenius_norm(x)
        return on_finite(fn, x)

    return norm


def _direction(fn: Function) -> Function:
    """`fn` of finite matrices in float32 or wider, (..., M, N) -> (..., M, N)."""

    def lmo(g: jax.Array) -> jax.Array:
        check_matrices("a steepest direction", g)
        if g.size == 0:
            return g
        return on_finite(fn, widened(g)).astype(g.dtype)

    return lmo


def _of_vectors(fn: Function) -> Function:
    """`fn` of matrices for the vectors along the last axis."""

    def vector_fn(x: jax.Array) -> jax.Array:
        check_matrices("rms_vector", x, axes=1)
        result = fn(x[..., None, :])
        return result[..., 0, :] if result.ndim > x.ndim else result

    return vector_fn


def _transposed(fn: Function) -> Function:
    def transposed_fn(x: jax.Array) -> jax.Array:
        result = fn(x.swapaxes(-2, -1))
        return result.swapaxes(-2, -1) if result.ndim == x.ndim else result

    return transposed_fn


def _times(power_in: float, power_out: float, fn: Function) -> Function:
    """fan-in^power_in fan-out^power_out times `fn`."""

    def scaled_fn(x: jax.Array) -> jax.Array:
        fan_in, fan_out = x.shape[-2:]
        return math.pow(fan_in, power_in) * math.pow(fan_out, power_out) * fn(x)

    return scaled_fn


def _row_norms(x: jax.Array) -> jax.Array:
    return frobenius_norm(x[..., None, :])


def _unit_rows(x: jax.Array) -> jax.Array:
    return normalize(x[..., None, :])[..., 0, :]


def _longest_row(x: jax.Array) -> jax.Array:
    return jnp.max(_row_norms(x), axis=-1)


def _sum_of_rows(x: jax.Array) -> jax.Array:
    return jnp.sum(_row_norms(x), axis=-1)


def _leading(x: jax.Array) -> jax.Array:
    """u_1 v_1^H."""
    u, s, vh = svd(normalize(x))
    exists = s[..., :1] > 0
    return jnp.where(exists, u[..., :, 0], 0)[..., :, None] * vh[..., :1, :]


def _euclidean() -> Geometry:
    norm = _figure(frobenius_norm)
    return Geometry("euclidean", norm, norm, _direction(normalize))


def _sign() -> Geometry:
    return Geometry(
        "sign",
        _figure(lambda x: jnp.max(jnp.abs(x), axis=(-2, -1))),
        _figure(lambda x: jnp.sum(jnp.abs(x), axis=(-2, -1))),
        _direction(jnp.sign),
    )


def _spectral(name: str, power: float) -> Geometry:
    """(fan-in / fan-out)^power ||W||_2."""
    return Geometry(
        name,
        _figure(_times(power, -power, op_norm)),
        _figure(_times(-power, power, nuclear_norm)),
        _direction(_times(-power, power, svd_polar)),
    )


def _column() -> Geometry:
    return Geometry(
        "column",
        _figure(_times(0, -0.5, _longest_row)),
        _figure(_times(0, 0.5, _sum_of_rows)),
        _direction(_times(0, 0.5, _unit_rows)),
    )


def _row() -> Geometry:
    return Geometry(
        "row",
        _figure(_times(0.5, 0, _transposed(_longest_row))),
        _figure(_times(-0.5, 0, _transposed(_sum_of_rows))),
        _direction(_times(-0.5, 0, _transposed(_unit_rows))),
    )


def _nuclear() -> Geometry:
    return Geometry(
        "nuclear", _figure(nuclear_norm), _figure(op_norm), _direction(_leading)
    )


def _rms_vector() -> Geometry:
    return Geometry(
        "rms_vector",
        _of_vectors(_figure(_times(0, -0.5, frobenius_norm))),
        _of_vectors(_figure(_times(0, 0.5, frobenius_norm))),
        _of_vectors(_direction(_times(0, 0.5, normalize))),
    )


GEOMETRIES: dict[str, Geometry] = {
    shape.name: shape
    for shape in (
        _euclidean(),
        _sign(),
        _spectral("spectral", 0.0),
        _spectral("rms_to_rms", 0.5),
        _column(),
        _row(),
        _nuclear(),
        _rms_vector(),
    )
}
