"""Geometries: duality, unit length, and the table worked by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.errors import ConfigError, ShapeError
from jopt.linalg import GEOMETRIES, Geometry, geometry, steepest_direction

NAMES = (
    "euclidean",
    "sign",
    "spectral",
    "rms_to_rms",
    "column",
    "row",
    "nuclear",
    "rms_vector",
)
# Of <G, D> against the dual norm, and of lengths, in float32; 20 roundings.
CLOSE = 3e-6
each_name = pytest.mark.parametrize("name", NAMES)
FAN_IN, FAN_OUT = 6, 9


def test_the_table_has_these_rows():
    assert tuple(GEOMETRIES) == NAMES
    assert all(geometry(name).name == name for name in NAMES)


@functools.cache
def compiled(name):
    """Of one geometry: norm, dual norm, lmo and regularised direction, jitted."""
    shape = geometry(name)
    regularised = functools.partial(steepest_direction, geometry=name, regularised=True)
    return tuple(
        jax.jit(f) for f in (shape.norm, shape.dual_norm, shape.lmo, regularised)
    )


def by_hand(name, x):
    """(norm, dual norm) in float64, from the definition."""
    x = np.asarray(x, np.promote_types(x.dtype, "float64"))
    fan_in, fan_out = x.shape[-2:]
    s = np.linalg.svd(x, compute_uv=False)
    entries, rows, columns = (
        np.abs(x),
        np.linalg.norm(x, axis=-1),  # the weights of one input
        np.linalg.norm(x, axis=-2),  # the weights of one output
    )
    ratio = np.sqrt(fan_in / fan_out)
    fro = np.sqrt((s**2).sum(-1))
    return {
        "euclidean": (fro, fro),
        "sign": (entries.max((-2, -1)), entries.sum((-2, -1))),
        "spectral": (s.max(-1), s.sum(-1)),
        "rms_to_rms": (ratio * s.max(-1), s.sum(-1) / ratio),
        "column": (
            rows.max(-1) / np.sqrt(fan_out),
            np.sqrt(fan_out) * rows.sum(-1),
        ),
        "row": (np.sqrt(fan_in) * columns.max(-1), columns.sum(-1) / np.sqrt(fan_in)),
        "nuclear": (s.sum(-1), s.max(-1)),
        "rms_vector": (rows / np.sqrt(fan_out), np.sqrt(fan_out) * rows),
    }[name]


def inner(name, x, y):
    """Re <x, y> of each matrix, or vector, in float64."""
    product = np.asarray(x, "complex128").conj() * np.asarray(y, "complex128")
    return product.real.sum(-1 if name == "rms_vector" else (-2, -1))


@st.composite
def gradients(draw_one):
    """(2, 6, 9) float32 of any rank and scale, some rows and columns zero."""
    rng = np.random.default_rng(draw_one(st.integers(0, 2**32 - 1)))
    rank = draw_one(st.integers(0, FAN_IN))
    x = rng.standard_normal((2, FAN_IN, rank)) @ rng.standard_normal((2, rank, FAN_OUT))
    x[:, draw_one(st.lists(st.integers(0, FAN_IN - 1), max_size=2))] = 0
    x[..., draw_one(st.lists(st.integers(0, FAN_OUT - 1), max_size=2))] = 0
    scale = 10.0 ** draw_one(st.integers(-30, 30))
    return (x * scale).astype(np.float32)


@each_name
@settings(max_examples=40, deadline=None, derandomize=True)
@given(g=gradients(), other=gradients())
def test_the_direction_has_length_one_and_reaches_the_dual_norm(name, g, other):
    norm, dual_norm, lmo, regularised = compiled(name)
    d = np.asarray(lmo(g))
    size, dual = np.asarray(norm(d)), np.asarray(dual_norm(g), np.float64)
    empty = dual == 0
    assert (np.abs(size - ~empty) < CLOSE).all()
    np.testing.assert_allclose(inner(name, g, d), dual, rtol=CLOSE)
    norms = by_hand(name, g)
    np.testing.assert_allclose(norm(g), norms[0], rtol=CLOSE)
    np.testing.assert_allclose(dual, norms[1], rtol=CLOSE)
    # No other matrix of length one does better.
    bound = dual * np.asarray(norm(other), np.float64)
    assert (inner(name, g, other) <= bound * (1 + CLOSE)).all()
    scaled = np.asarray(regularised(g), np.float64)
    lengths = dual if name == "rms_vector" else dual[..., None]
    np.testing.assert_allclose(scaled, lengths[..., None] * d, rtol=CLOSE)


@each_name
@settings(max_examples=15, deadline=None, derandomize=True)
@given(g=gradients(), exponent=st.integers(-10, 10))
def test_scale_changes_the_regularised_direction_only(name, g, exponent):
    _, _, lmo, regularised = compiled(name)
    g = g / (np.abs(g).max() or 1)
    factor = np.float32(2.0) ** exponent
    np.testing.assert_allclose(lmo(g * factor), lmo(g), atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(regularised(g * factor)) / factor,
        regularised(g),
        atol=1e-5 * FAN_IN * FAN_OUT,
    )


@each_name
def test_complex_gradients(name, draw):
    norm, dual_norm, lmo, _ = compiled(name)
    g = draw(2, FAN_IN, FAN_OUT, dtype="complex64")
    d = lmo(g)
    assert d.dtype == jnp.complex64
    norms = by_hand(name, g)
    np.testing.assert_allclose(norm(g), norms[0], rtol=CLOSE)
    np.testing.assert_allclose(dual_norm(g), norms[1], rtol=CLOSE)
    np.testing.assert_allclose(norm(d), 1, rtol=CLOSE)
    np.testing.assert_allclose(inner(name, g, d), norms[1], rtol=CLOSE)


def test_directions_worked_by_hand():
    # Two inputs, three outputs.
    g = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]])
    expected = {
        "euclidean": np.array([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]]) / np.sqrt(29),
        "sign": [[1, 1, 0], [0, 0, -1]],
        "spectral": [[0.6, 0.8, 0], [0, 0, -1]],
        "rms_to_rms": np.sqrt(3 / 2) * np.array([[0.6, 0.8, 0], [0, 0, -1]]),
        "column": np.sqrt(3) * np.array([[0.6, 0.8, 0], [0, 0, -1]]),
        "row": np.sqrt(1 / 2) * np.array([[1, 1, 0], [0, 0, -1]]),
        "nuclear": [[0.6, 0.8, 0], [0, 0, 0]],
        "rms_vector": np.sqrt(3) * np.array([[0.6, 0.8, 0], [0, 0, -1]]),
    }
    sizes = {
        "euclidean": np.sqrt(29),
        "sign": 9,
        "spectral": 7,
        "rms_to_rms": 7 * np.sqrt(3 / 2),
        "column": 7 * np.sqrt(3),
        "row": 9 / np.sqrt(2),
        "nuclear": 5,
        "rms_vector": np.sqrt(3) * np.array([[5], [2]]),
    }
    assert set(expected) == set(NAMES)
    for name, direction in expected.items():
        found = steepest_direction(g, name)
        np.testing.assert_allclose(found, direction, atol=1e-6, err_msg=name)
        found = steepest_direction(g, geometry(name), regularised=True)
        np.testing.assert_allclose(
            found, sizes[name] * np.asarray(direction), rtol=2e-6, atol=1e-5
        )


def test_rms_to_rms_and_its_neighbours_are_operator_norms(draw):
    """The norms bound what a layer y = x W can do to an input of unit size."""
    w = draw(FAN_IN, FAN_OUT)
    rng = np.random.default_rng(0)

    def rms(v):
        return np.sqrt(np.mean(v**2, axis=-1))

    def bound(name):
        return pytest.approx(float(geometry(name).norm(w)), rel=1e-5)

    x = rng.standard_normal((2000, FAN_IN))
    x = np.concatenate([x, np.linalg.svd(w)[0].T])
    x = x / rms(x)[:, None]
    assert rms(x @ w).max() == bound("rms_to_rms")
    one_hot = np.eye(FAN_IN)
    assert rms(one_hot @ w).max() == bound("column")
    aligned = w.T / rms(w.T)[:, None]
    found = np.abs(np.concatenate([x, aligned]) @ w).max()
    assert found == bound("row")


@each_name
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_zero_or_broken_slice_stays_alone(name, bad, draw):
    sound = draw(2, FAN_IN, FAN_OUT)
    x = sound.copy()
    x[1] = 0.0
    x[1, 2, 3] = bad
    for measure in compiled(name):
        found, expected = np.asarray(measure(x)), np.asarray(measure(sound))
        np.testing.assert_array_equal(found[0], expected[0])
        # Vectors are on their own.
        part = found[1, 2] if name == "rms_vector" else found[1]
        np.testing.assert_array_equal(part, 0.0 if bad == 0.0 else np.nan)


@each_name
def test_batched_equals_loop_equals_vmap(name, draw):
    x = draw(2, FAN_IN, FAN_OUT)
    _, dual_norm, lmo, _ = compiled(name)
    for measure in (dual_norm, lmo):
        batched = measure(x)
        np.testing.assert_allclose(jax.vmap(measure)(x), batched, atol=1e-5)
        np.testing.assert_allclose([measure(row) for row in x], batched, atol=1e-5)


@each_name
def test_dtypes(name, draw):
    norm, dual_norm, lmo, regularised = compiled(name)
    x = jnp.asarray(draw(2, FAN_IN, FAN_OUT)).astype("bfloat16")
    wide = x.astype("float32")
    assert norm(x).dtype == dual_norm(x).dtype == jnp.float32
    np.testing.assert_array_equal(norm(x), norm(wide))
    for direction in (lmo, regularised):
        assert direction(x).dtype == jnp.bfloat16
        np.testing.assert_array_equal(direction(x), direction(wide).astype("bfloat16"))


@each_name
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0)], ids=str)
def test_arrays_without_elements_pass(name, shape):
    x = jnp.zeros(shape)
    assert steepest_direction(x, name).shape == shape
    assert steepest_direction(x, name, regularised=True).shape == shape
    lead = shape[:-1] if name == "rms_vector" else shape[:-2]
    assert geometry(name).norm(x).shape == lead
    assert not geometry(name).dual_norm(x).any()


def test_a_geometry_of_ones_own():
    halved = Geometry("halved", lambda w: w, lambda g: jnp.sum(g, (-2, -1)), jnp.sign)
    g = jnp.full((2, 2, 3), 2.0)
    np.testing.assert_array_equal(steepest_direction(g, halved), 1.0)
    np.testing.assert_array_equal(steepest_direction(g, halved, regularised=True), 12.0)


def test_one_vector_and_small_entries():
    b = jnp.array([3e-30, -4e-30])
    np.testing.assert_allclose(
        steepest_direction(b, "rms_vector"),
        np.sqrt(2) * np.array([0.6, -0.8]),
        rtol=1e-6,
    )
    # A row far below the others is a row of its own all the same.
    g = jnp.array([[1e10, 0.0], [0.0, -1e-25]])
    np.testing.assert_allclose(
        steepest_direction(g, "column"),
        np.sqrt(2) * np.array([[1, 0], [0, -1]]),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(steepest_direction(g, "sign"), [[1, 0], [0, -1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: geometry("spectrel"), ConfigError, "did you mean 'spectral'"),
        (lambda: steepest_direction(jnp.eye(2), "l1"), ConfigError, "geometry"),
        (lambda: steepest_direction(jnp.ones(3), "sign"), ShapeError, "2 axes"),
        (lambda: geometry("row").norm(jnp.ones(3)), ShapeError, "2 axes"),
        (lambda: geometry("rms_vector").norm(jnp.ones(())), ShapeError, "1 axes"),
        (
            lambda: steepest_direction(jnp.eye(2, dtype="int32"), "sign"),
            ShapeError,
            "int32",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
