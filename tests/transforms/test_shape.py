"""Shape scales against their formulas, and the RMS they promise."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.linalg import reference
from jopt.matrix import MatrixSpec
from jopt.transforms import shape_scale

SHAPES = [(4, 4), (4, 16), (16, 4), (6, 9)]


def polar(m, n, seed=0):
    x = np.random.default_rng(seed).standard_normal((m, n))
    return jnp.asarray(reference.polar(x), jnp.float32)


def scaled(x, mode, **options):
    tx = jopt.scale_by_shape(mode, **options)
    return tx.update(x, tx.init(x))[0]


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_their_formulas(shape):
    fan_in, fan_out = shape
    expected = {
        "none": 1.0,
        "jordan": math.sqrt(max(1.0, fan_out / fan_in)),
        "spectral_mup": math.sqrt(fan_out / fan_in),
        "match_rms_adamw": 0.2 * math.sqrt(max(shape)),
        "match_rms": math.sqrt(0.1 / 1.9) * math.sqrt(max(shape)),
    }
    ones = jnp.ones(shape)
    for mode, factor in expected.items():
        assert shape_scale(mode, fan_in, fan_out) == pytest.approx(factor)
        np.testing.assert_allclose(scaled(ones, mode), factor, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_of_an_exact_polar_factor(shape):
    o = polar(*shape)
    assert rms(scaled(o, "match_rms_adamw")) == pytest.approx(0.2, rel=1e-6)
    assert rms(scaled(o, "match_rms", kappa=0.5)) == pytest.approx(0.5, rel=1e-6)
    assert rms(scaled(o, "unit_rms")) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_mup_maps_unit_rms_to_at_most_unit_rms(shape):
    fan_in, fan_out = shape
    weight = np.asarray(scaled(polar(*shape), "spectral_mup"))
    gain = np.linalg.norm(weight, 2) * math.sqrt(fan_in / fan_out)
    assert gain == pytest.approx(1.0, rel=1e-5)


def test_unit_rms_holds_for_deficient_rank_and_any_size_of_update():
    low = polar(6, 2) @ polar(2, 9)
    for factor in (1.0, 1e-30, 1e30):
        assert rms(scaled(low * factor, "unit_rms")) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_array_equal(scaled(jnp.zeros((2, 3)), "unit_rms"), 0.0)
    assert np.isnan(scaled(jnp.full((2, 3), jnp.nan), "unit_rms")).all()


def test_each_block_and_each_matrix_has_its_own_factor():
    specs = {"qkv": MatrixSpec((0,), (1,), split=(16, 4, 4))}
    found = scaled({"qkv": jnp.ones((4, 24))}, "jordan", matrix_specs=specs)["qkv"]
    np.testing.assert_allclose(found[:, :16], 2.0)
    np.testing.assert_allclose(found[:, 16:], 1.0)

    stack = jnp.stack([jnp.ones((2, 3)), 5 * jnp.ones((2, 3))])
    specs = {"stack": MatrixSpec((1,), (2,))}
    found = scaled({"stack": stack}, "unit_rms", matrix_specs=specs)["stack"]
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


def test_fan_in_and_fan_out_come_from_the_spec():
    x = {"w": jnp.ones((4, 16))}
    transposed = {"w": MatrixSpec((1,), (0,))}
    np.testing.assert_allclose(scaled(x, "spectral_mup")["w"], 2.0)
    np.testing.assert_allclose(
        scaled(x, "spectral_mup", matrix_specs=transposed)["w"], 0.5
    )


def test_factor_is_not_rounded_to_bfloat16_before_it_is_applied():
    x = jnp.full((3, 3), 1.5, jnp.bfloat16)
    # 0.2 sqrt(3) * 1.5 = 0.51961524, whose nearest bfloat16 is 0.51953125; the factor
    # rounded first is 0.34570312, and the product then 0.51953125 or its neighbour.
    expected = jnp.float32(0.2 * math.sqrt(3)) * 1.5
    np.testing.assert_array_equal(
        scaled(x, "match_rms_adamw"), expected.astype(jnp.bfloat16)
    )


def test_kappa_may_be_traced_and_sizes_of_zero_pass():
    x = jnp.ones((4, 4))
    found = jax.jit(lambda kappa: scaled(x, "match_rms", kappa=kappa))(0.25)
    np.testing.assert_allclose(found, 0.5)
    for mode in ("jordan", "unit_rms"):
        assert scaled(jnp.zeros((0, 4)), mode).shape == (0, 4)


def test_unknown_mode_names_the_nearest():
    with pytest.raises(ConfigError, match="match_rms_adamw"):
        jopt.scale_by_shape("match_rms_adam")
