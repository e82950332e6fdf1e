"""The reference itself, on cases worked by hand."""

from __future__ import annotations

import numpy as np

from jopt.linalg import reference


def test_polar_drops_directions_below_rounding_of_the_input_dtype():
    x = np.diag([1.0, 1e-5, 1e-12])
    np.testing.assert_allclose(reference.polar(x), np.eye(3))
    # In float32, 1e-12 is below 3 * 1.2e-7.
    np.testing.assert_allclose(
        reference.polar(x.astype(np.float32)), np.diag([1, 1, 0])
    )
    np.testing.assert_array_equal(reference.polar(np.zeros((2, 3))), np.zeros((2, 3)))


def test_polar_of_a_product_of_rotation_and_stretch_is_the_rotation():
    angle = 0.3
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    stretch = np.array([[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(reference.polar(rotation @ stretch), rotation)
