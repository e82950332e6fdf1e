"""Matrix views of one array: what is a matrix, and that nothing is lost."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec, as_matrix_spec, assemble, is_matrix_spec, matrices

VIEWS = {
    "dense": ((4, 6), MatrixSpec((0,), (1,)), [(1, 4, 6)]),
    "transposed": ((4, 6), MatrixSpec((1,), (0,)), [(1, 6, 4)]),
    "scanned": ((3, 4, 6), MatrixSpec((1,), (2,)), [(3, 4, 6)]),
    "experts": ((3, 5, 4, 6), MatrixSpec((2,), (3,)), [(15, 4, 6)]),
    "q joint": ((8, 2, 4), MatrixSpec((0,), (1, 2)), [(1, 8, 8)]),
    "q per head": ((8, 2, 4), MatrixSpec((0,), (1, 2)).per_head(), [(2, 8, 4)]),
    "o joint": ((2, 4, 8), MatrixSpec((0, 1), (2,)), [(1, 8, 8)]),
    "o per head": ((2, 4, 8), MatrixSpec((0, 1), (2,)).per_head(), [(2, 4, 8)]),
    "scanned q per head": (
        (3, 8, 2, 4),
        MatrixSpec((0,), (1, 2)).per_head().stacked(),
        [(6, 8, 4)],
    ),
    "fused": (
        (8, 16),
        MatrixSpec((0,), (1,), split=(8, 4, 4)),
        [(1, 8, 8), (1, 8, 4), (1, 8, 4)],
    ),
    "scanned fused per head": (
        (3, 8, 16),
        MatrixSpec((0,), (1,), split=(8, 4, 4)).per_head((4, 2, 2)).stacked(),
        [(12, 8, 2), (6, 8, 2), (6, 8, 2)],
    ),
    "fused with a gate": (
        (3, 8, 24),
        MatrixSpec((1,), (2,), split=(8, 4, 4, 8)),
        [(3, 8, 8), (3, 8, 4), (3, 8, 4), (3, 8, 8)],
    ),
    "filter banks": ((3, 2, 2, 5, 7), MatrixSpec((1, 2, 3), (4,)), [(3, 20, 7)]),
    "negative axes": ((3, 4, 6), MatrixSpec((-2,), (-1,)), [(3, 4, 6)]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_and_their_inverse(name):
    shape, spec, blocks = VIEWS[name]
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    stacks = matrices(x, spec)
    assert [stack.shape for stack in stacks] == blocks == list(spec.blocks(shape))
    np.testing.assert_array_equal(assemble(stacks, spec, shape), x)


def test_stacking_is_the_view_of_each_slice():
    for shape, spec, _ in VIEWS.values():
        x = jnp.arange(2 * np.prod(shape), dtype=jnp.float32).reshape(2, *shape)
        for together, *apart in zip(
            matrices(x, spec.stacked()),
            matrices(x[0], spec),
            matrices(x[1], spec),
            strict=True,
        ):
            np.testing.assert_array_equal(together, jnp.concatenate(apart))


def test_a_head_of_a_fused_block_is_its_columns():
    x = jnp.arange(8 * 16.0).reshape(8, 16)
    q, k, v = matrices(x, MatrixSpec((0,), (1,), split=(8, 4, 4)).per_head((2, 1, 1)))
    np.testing.assert_array_equal(q[1], x[:, 4:8])
    np.testing.assert_array_equal(k[0], x[:, 8:12])
    np.testing.assert_array_equal(v[0], x[:, 12:])


@pytest.mark.parametrize(
    "spec",
    [
        MatrixSpec((0,), (1,)),
        MatrixSpec((0, 1), (2, 3)),
        MatrixSpec((0, 1, 2), (3,)),
        MatrixSpec((0,), (1, 2), split=(4, 4)),
    ],
)
def test_heads_are_not_guessed(spec):
    with pytest.raises(ShapeError, match="does not say which axis is the heads"):
        spec.per_head()


def test_a_number_of_heads_has_to_divide_the_block():
    spec = MatrixSpec((0,), (1,)).per_head(3)
    with pytest.raises(ShapeError, match=r"heads 3 does not divide the blocks \(16,\)"):
        spec.blocks((8, 16))


def test_dimension_numbers_of_optax():
    assert as_matrix_spec(MuonDimensionNumbers()) == MatrixSpec((0,), (1,))
    assert as_matrix_spec(MuonDimensionNumbers([0, 1], (-1,))) == MatrixSpec(
        (0, 1), (-1,)
    )
    assert is_matrix_spec(MuonDimensionNumbers()) and not is_matrix_spec(None)
    with pytest.raises(ConfigError, match=r"found \(0, 1\)"):
        as_matrix_spec((0, 1))
    with pytest.raises(ShapeError, match="reduction_axes is empty"):
        as_matrix_spec(MuonDimensionNumbers((), 1))
