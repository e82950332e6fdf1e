"""Krylov methods on pytrees: against dense decompositions, and where those are no help.

Bounds are of the specification; what was measured is beside them.
"""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jopt import linalg
from jopt.errors import ConfigError
from jopt.linalg._lanczos import lanczos
from jopt.linalg._tree_vectors import along_rows, row, signs_like

LIKE = {"a": np.zeros((3, 4)), "b": np.zeros(8)}
D = 20


def operator(dense, like=None):
    """A dense matrix as a function of trees."""
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, like or LIKE))
    dense = jnp.asarray(dense, flat.dtype)
    return lambda v: unravel(jnp.dot(dense, ravel_pytree(v)[0], precision="highest"))


def least_squares(draw):
    x = draw(50, D, dtype="float64")
    return x.T @ x / 50


def symmetric(values, seed=0):
    """A dense symmetric matrix with these eigenvalues."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return q @ np.diag(values) @ q.T


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Relative bounds of top eigenvalues and of exact sums."""
    if request.param == "float32":
        yield request.param, 1e-4, 1e-4
    else:
        with jax.enable_x64(True):
            yield request.param, 1e-10, 1e-10


def test_least_squares(draw, precision):
    """Measured: 2e-7 in float32, 1e-15 in float64."""
    dtype, top, exact = precision
    dense = least_squares(draw)
    like = jax.tree.map(lambda x: jnp.asarray(x, dtype), LIKE)
    matvec = operator(dense, like)
    values = np.linalg.eigvalsh(dense)[::-1]
    flat = operator(symmetric([3.0, -1.0, *[0] * (D - 2)]), like)

    @jax.jit
    def measured():
        return (
            linalg.eigsh(matvec, like, 3, num_matvecs=D),
            linalg.eigsh(matvec, like, which="smallest", num_matvecs=D).values,
            linalg.xtrace(flat, like, D),
            linalg.quadrature(matvec, like, D, 1),
        )

    found, low, trace, (nodes, weights) = jax.tree.map(np.asarray, measured())
    np.testing.assert_allclose(found.values, values[:3], rtol=top)
    assert found.values.dtype == dtype
    assert (found.residuals <= 10 * exact * values[0]).all()
    for place, value in enumerate(found.values):
        v = np.concatenate([x[place].ravel() for x in found.vectors.values()])
        np.testing.assert_allclose(dense @ v, value * v, atol=1e2 * exact)
    np.testing.assert_allclose(low, values[-1:], rtol=10 * top)
    # Of rank 2: ten directions span what there is, without any one of them.
    np.testing.assert_allclose(trace.mean, 2, rtol=exact)
    assert trace.sem <= exact
    np.testing.assert_allclose(weights.sum(), 1, rtol=exact)
    np.testing.assert_allclose(np.sort(nodes[0])[::-1], values, rtol=1e2 * exact)


@pytest.mark.slow
def test_random_estimates_are_within_their_errors(draw):
    dense = least_squares(draw)
    matvec, decays = operator(dense), operator(symmetric(2.0 ** -np.arange(D)))

    @jax.jit
    def measured():
        names = ("hutchinson_trace", "xtrace", "frobenius_squared")
        found = {name: getattr(linalg, name)(matvec, LIKE, 24) for name in names}
        found["diagonal"] = linalg.hutchinson_diagonal(matvec, LIKE, 64)
        found["density"] = linalg.spectral_density(matvec, LIKE, 12, 4)
        found["plain"] = linalg.hutchinson_trace(decays, LIKE, 24)
        found["quick"] = linalg.xtrace(decays, LIKE, 24)
        return found

    found = jax.tree.map(np.asarray, measured())
    expected = {
        "hutchinson_trace": np.trace(dense),
        "xtrace": np.trace(dense),
        "frobenius_squared": np.sum(dense**2),
    }
    for name, value in expected.items():
        mean, sem = found[name]
        assert 0 < sem < 0.1 * value
        assert abs(mean - value) <= 4 * sem, name
    # Here the spectrum does not decay. Where it does, XTrace is far ahead.
    assert found["quick"].sem < 1e-2 * found["plain"].sem
    mean, sem = (ravel_pytree(x)[0] for x in found["diagonal"])
    assert (abs(mean - np.diag(dense)) <= 4 * sem).all()
    # The mean eigenvalue, from the density.
    grid, density = found["density"]
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    center = np.trapezoid(density * grid, grid)
    assert center == pytest.approx(np.trace(dense) / D, rel=0.2)


def test_hutchinson_of_a_diagonal_operator_needs_one_probe():
    scales = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(8)}

    def matvec(v):
        return jax.tree.map(jnp.multiply, scales, v)

    found = linalg.hutchinson_trace(matvec, LIKE, 1)
    assert float(found.mean) == 66 and np.isnan(found.sem)
    diagonal = linalg.hutchinson_diagonal(matvec, LIKE, 1).mean
    np.testing.assert_array_equal(diagonal["a"], scales["a"])


def test_the_error_of_a_trace_is_the_formula_s():
    dense = symmetric(np.linspace(-3, 2, D))
    found = linalg.hutchinson_trace(operator(dense), LIKE, 1000)
    variance = 2 * (np.sum(dense**2) - np.sum(np.diag(dense) ** 2))
    assert found.sem == pytest.approx(np.sqrt(variance / 1000), rel=0.2)
    # Indefinite, with a negative trace: no early stop.
    assert np.trace(dense) < 0
    assert abs(found.mean - np.trace(dense)) <= 3 * found.sem


@jax.jit
def ends(dense):
    """The largest eigenvalue in two ways, and that of the largest size."""

    def matvec(v):
        return jnp.dot(dense, v, precision="highest")

    like = jnp.zeros(len(dense))
    largest = linalg.eigsh(matvec, like), linalg.power_largest(matvec, like)
    return *(x.values[0] for x in largest), linalg.power_iteration(matvec, like)


@pytest.mark.parametrize(
    ("values", "largest"),
    [((1, -5), 1), ((1, -1), 1), ((-4, -5), -4), ((3, -1), 3), ((0, 0), 0)],
)
def test_the_signed_end(values, largest):
    krylov, power, unsigned = ends(jnp.diag(jnp.array(values, jnp.float32)))
    assert krylov == pytest.approx(largest, abs=1e-5)
    assert power == pytest.approx(largest, abs=1e-2)
    if values == (1, -5):
        assert unsigned.values[0] == pytest.approx(-5, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(scale):
    dense = symmetric([3.0, -1.0, 0.5, 0.25]) * scale
    krylov, power, _ = ends(jnp.asarray(dense, jnp.float32))
    assert krylov == pytest.approx(3 * scale, rel=1e-5)
    assert power == pytest.approx(3 * scale, rel=1e-2)


def test_breakdown_is_masked():
    """Three different eigenvalues: the Krylov space has three dimensions."""
    dense = symmetric(np.repeat([1.0, -2.0, 4.0], [10, 5, 5]))

    @jax.jit
    def measured():
        same = linalg.eigsh(lambda v: jax.tree.map(lambda x: 2 * x, v), LIKE, 2)
        zero = linalg.eigsh(lambda v: jax.tree.map(jnp.zeros_like, v), LIKE).values[0]
        few = linalg.eigsh(operator(dense), LIKE, 3, num_matvecs=3).values
        rows = lanczos(lambda v: v, LIKE, 5).found
        return few, same, zero, rows, linalg.spectral_density(lambda v: v, LIKE, 5, 2)

    few, same, zero, rows, (grid, density) = jax.tree.map(np.asarray, measured())
    np.testing.assert_allclose(few, [4, 1, -2], rtol=1e-5)
    # Exactly: no rounding goes on in its stead.
    np.testing.assert_allclose(same.values, [2, np.nan], rtol=1e-6)
    assert same.residuals[0] <= 1e-6
    assert all((x[1] == 0).all() for x in jax.tree.leaves(same.vectors))
    assert rows == 1 and zero == 0
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)


def test_the_basis_stays_orthonormal():
    """A spectrum over six decades, where plain Lanczos loses it; measured: 4e-7."""
    values = np.geomspace(1, 1e-6, D)
    basis = lanczos(operator(symmetric(values)), LIKE, D).basis
    gram = jax.lax.map(
        lambda place: along_rows(basis, row(basis, place)), jnp.arange(D)
    )
    np.testing.assert_allclose(gram, np.eye(D), atol=5e-6)


def test_products_are_clipped_to_the_dimension():
    assert lanczos(lambda v: v, {"a": jnp.zeros(3)}, 40).diagonal.shape == (3,)


def test_nan_stays_nan():
    def matvec(v):
        return jax.tree.map(lambda x: x * jnp.nan, v)

    @jax.jit
    def measured():
        starts = jax.tree.map(lambda x: x[None] + 1, LIKE)
        return (
            linalg.eigsh(matvec, LIKE, 2, num_matvecs=4).values,
            linalg.power_largest(matvec, LIKE).values,
            linalg.hutchinson_trace(matvec, LIKE, 3),
            linalg.xtrace(matvec, LIKE, 6),
            linalg.spectral_density(matvec, LIKE, 3, 2),
            linalg.largest_form_in_ball(matvec, lambda v: v, starts).value,
        )

    for number in jax.tree.leaves(measured()):
        assert np.isnan(number).all()


def test_complex_leaves_count_as_two_real_ones():
    """Against the real matrix of the same operator."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))
    gram = (a.conj().T @ a).astype(np.complex64)

    def loss(z):
        return jnp.sum(jnp.abs(jnp.asarray(a, jnp.complex64) @ z) ** 2) / 2

    z = jnp.ones(4, jnp.complex64)
    matvec = linalg.hessian_operator(loss, z)
    v = jnp.asarray(rng.standard_normal(4) + 1j * rng.standard_normal(4), jnp.complex64)

    @jax.jit
    def measured():
        reverse = linalg.hvp(loss, z, v, mode="rev_over_rev")
        largest = linalg.eigsh(matvec, z).values[0]
        return matvec(v), reverse, largest, linalg.xtrace(matvec, z, 16).mean

    forward, reverse, largest, trace = measured()
    np.testing.assert_allclose(forward, gram @ v, rtol=1e-5)
    np.testing.assert_allclose(reverse, gram @ v, rtol=1e-5)
    values = np.linalg.eigvalsh(gram)
    assert largest == pytest.approx(values[-1], rel=1e-5)
    # Eight random signs may be dependent: then it is no longer exact.
    assert trace == pytest.approx(2 * values.sum(), rel=5e-2)


def test_the_largest_form_over_signs_against_all_of_them():
    dense = np.array(symmetric(np.linspace(0, 5, 8)), np.float32)
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=8)))
    best = np.einsum("ci,ij,cj->c", corners, dense, corners).max()
    starts = jax.random.normal(jax.random.key(0), (16, 8))
    found = linalg.largest_form_in_ball(
        lambda v: jnp.asarray(dense) @ v, jnp.sign, starts
    )
    assert found.value == pytest.approx(best, rel=1e-5)
    assert found.direction @ dense @ found.direction == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("bad", ["without parameters", "k", "num_matvecs", "probes"])
def test_what_cannot_be_is_said(bad):
    calls = {
        "without parameters": lambda: linalg.eigsh(
            lambda v: v, {"a": jnp.zeros((0, 2))}
        ),
        "k": lambda: linalg.eigsh(lambda v: v, LIKE, 5, num_matvecs=4),
        "num_matvecs": lambda: linalg.lanczos(lambda v: v, LIKE, 0),
        "probes": lambda: linalg.hutchinson_trace(lambda v: v, LIKE, 0),
    }
    with pytest.raises(ConfigError, match=bad):
        calls[bad]()


def test_against_matfree(draw):
    """An independent implementation, for one ravelled vector; the same samples."""
    reason = "needs the extra: pip install 'jopt[curvature]'"
    decomp = pytest.importorskip("matfree.decomp", reason=reason)
    from matfree import eig, stochtrace

    dense = jnp.asarray(symmetric(2.0 ** -np.arange(D)), jnp.float32)
    like, start = jnp.zeros(D), jax.random.normal(jax.random.key(3), (D,))
    keys = jax.random.split(jax.random.key(5), 6)

    def matvec(v):
        return jnp.dot(dense, v, precision="highest")

    @jax.jit
    def measured():
        samples = jax.vmap(lambda key: signs_like(key, like))(keys)
        tridiag, key = decomp.tridiag_sym(8), jax.random.key(5)
        ours = (
            linalg.lanczos(matvec, like, 8, start=start),
            linalg.eigsh(matvec, like, 3, num_matvecs=8, start=start).values,
            linalg.xtrace(matvec, like, 12, key=key),
            linalg.hutchinson_trace(matvec, like, 6, key=key),
        )
        return ours, (
            tridiag(matvec, start)[:2],
            eig.eigh_partial(tridiag)(matvec, start)[0],
            stochtrace.leave_one_out_xtrace(apply_resphering=False)(matvec, samples),
            jax.vmap(partial(stochtrace.monte_carlo_trace(), matvec))(samples),
        )

    ours, theirs = jax.tree.map(np.asarray, measured())
    krylov, values, xtraced, traced = ours
    (basis, tridiagonal), their_values, their_xtraces, their_traces = theirs
    np.testing.assert_allclose(krylov.diagonal, np.diag(tridiagonal), atol=1e-5)
    beside = np.diag(tridiagonal, 1)
    np.testing.assert_allclose(krylov.off_diagonal[:-1], beside, atol=1e-5)
    np.testing.assert_allclose(abs(krylov.basis), abs(basis.reshape(8, D)), atol=1e-3)
    np.testing.assert_allclose(values, np.sort(their_values)[::-1][:3], rtol=1e-4)
    assert xtraced.mean == pytest.approx(their_xtraces.mean(), rel=1e-4)
    spread = their_xtraces.std(ddof=1) / np.sqrt(6)
    assert xtraced.sem == pytest.approx(spread, rel=1e-2)
    assert traced.mean == pytest.approx(their_traces.mean(), rel=1e-5)
