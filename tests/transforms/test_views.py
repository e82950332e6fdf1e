"""A matrix is a matrix wherever it is stored: stacked, fused, by heads, as filters.

Each arrangement of one set of matrices has to give the update of the matrices one by
one, shape scale included.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import jopt
from jopt.matrix import MatrixSpec
from jopt.transforms import Views

MODES = ("none", "jordan", "spectral_mup", "match_rms_adamw", "unit_rms")
# One program in two arrangements, in float32; entries of an update are below 3.
FLOAT32 = 2e-5


# Two stages compile faster than five and treat matrices alike.
STEPS = {"steps": 2}


def chain(specs, mode="jordan"):
    return optax.chain(
        jopt.scale_by_orthogonalization(0.9, matrix_specs=specs, **STEPS),
        jopt.scale_by_shape(mode, matrix_specs=specs),
    )


def muon(specs):
    return jopt.muon(
        0.1,
        beta=0.9,
        weight_decay=0.1,
        matrix_specs=specs,
        fallback=optax.set_to_zero(),
        **STEPS,
    )


def second_update(tx, arrange, scale=1.0):
    """After two steps, so that momentum counts; `arrange(seed)` makes a tree."""
    params = arrange(0)
    state = tx.init(params)
    for seed in (1, 2):
        grads = jax.tree.map(lambda x: scale * x, arrange(seed))
        updates, state = tx.update(grads, state, params)
    return updates


def normal(*shape):
    """A function of a seed: an array whose leading slices differ in scale, 1 to 100."""

    def make(seed):
        x = jax.random.normal(jax.random.key(seed + sum(shape)), shape)
        sizes = 10.0 ** (jnp.arange(shape[0]) % 3)
        return x * sizes.reshape(-1, *[1] * (len(shape) - 1))

    return make


# name -> (an array, its view, what takes it apart into matrices, and the inverse)
L, E, D, H, K = 3, 2, 12, 2, 4
CASES = {
    "stack": (
        normal(L, D, 8),
        MatrixSpec((1,), (2,)),
        lambda x: list(x),
        lambda parts: jnp.stack(parts),
    ),
    "experts": (
        normal(L, E, D, 8),
        MatrixSpec((2,), (3,)),
        lambda x: list(x.reshape(-1, D, 8)),
        lambda parts: jnp.stack(parts).reshape(L, E, D, 8),
    ),
    "fused": (
        normal(D, 16),
        MatrixSpec((0,), (1,), split=(8, 4, 4)),
        lambda x: jnp.split(x, [8, 12], axis=1),
        lambda parts: jnp.concatenate(parts, axis=1),
    ),
    "fused with a gate": (
        normal(D, 32),
        MatrixSpec((0,), (1,), split=(16, 4, 4, 8)),
        lambda x: jnp.split(x, [16, 20, 24], axis=1),
        lambda parts: jnp.concatenate(parts, axis=1),
    ),
    "stacked fused": (
        normal(L, D, 16),
        MatrixSpec((1,), (2,), split=(8, 4, 4)),
        lambda x: [part for y in x for part in jnp.split(y, [8, 12], axis=1)],
        lambda parts: jnp.stack(
            [jnp.concatenate(parts[i : i + 3], axis=1) for i in range(0, 3 * L, 3)]
        ),
    ),
    "q per head": (
        normal(D, H, K),
        MatrixSpec((0,), (1, 2)).per_head(),
        lambda x: [x[:, h] for h in range(H)],
        lambda parts: jnp.stack(parts, axis=1),
    ),
    "o per head": (
        normal(H, K, D),
        MatrixSpec((0, 1), (2,)).per_head(),
        lambda x: list(x),
        lambda parts: jnp.stack(parts),
    ),
    "q joint": (
        normal(D, H, K),
        MatrixSpec((0,), (1, 2)),
        lambda x: [x.reshape(D, H * K)],
        lambda parts: parts[0].reshape(D, H, K),
    ),
    "o joint": (
        normal(H, K, D),
        MatrixSpec((0, 1), (2,)),
        lambda x: [x.reshape(H * K, D)],
        lambda parts: parts[0].reshape(H, K, D),
    ),
    "fused per head": (
        normal(D, 16),
        MatrixSpec((0,), (1,), split=(8, 4, 4)).per_head((2, 1, 1)),
        lambda x: jnp.split(x, 4, axis=1),
        lambda parts: jnp.concatenate(parts, axis=1),
    ),
    "filter bank": (
        normal(2, 3, 2, 8),
        MatrixSpec((0, 1, 2), (3,)),
        lambda x: [x.reshape(D, 8)],
        lambda parts: parts[0].reshape(2, 3, 2, 8),
    ),
    "stacked filter banks": (
        normal(L, 2, 3, 2, 8),
        MatrixSpec((1, 2, 3), (4,)),
        lambda x: [bank.reshape(D, 8) for bank in x],
        lambda parts: jnp.stack(parts).reshape(L, 2, 3, 2, 8),
    ),
    "stacked one-dimensional filters": (
        normal(L, 6, 2, 8),
        MatrixSpec((1, 2), (3,)),
        lambda x: [bank.reshape(D, 8) for bank in x],
        lambda parts: jnp.stack(parts).reshape(L, 6, 2, 8),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def check_update(make, case):
    array, view, take_apart, put_together = case
    together = second_update(make({"w": view}), lambda seed: {"w": array(seed)})["w"]
    apart = second_update(
        make(None),
        lambda seed: {str(i): p for i, p in enumerate(take_apart(array(seed)))},
    )
    expected = put_together([apart[str(i)] for i in range(len(apart))])
    np.testing.assert_allclose(together, expected, atol=FLOAT32, rtol=1e-5)


def test_an_arrangement_gives_the_update_of_its_matrices(case):
    check_update(chain, case)


@pytest.mark.parametrize("mode", MODES)
def test_an_arrangement_gives_the_scale_of_its_matrices(case, mode):
    array, view, take_apart, put_together = case
    x = array(0)

    def scaled(x, specs=None):
        tx = jopt.scale_by_shape(mode, matrix_specs=specs)
        return tx.update(x, tx.init(x))[0]

    expected = put_together([scaled(part) for part in take_apart(x)])
    np.testing.assert_allclose(scaled(x, view), expected, rtol=1e-5)


HARDEST = ("experts", "stacked fused", "fused per head", "stacked filter banks")
hard_cases = pytest.mark.parametrize("case", HARDEST, indirect=True)


@hard_cases
def test_an_arrangement_gives_the_step_of_its_matrices(case):
    """Learning rate, decay and routing of the whole optimizer included."""
    check_update(muon, case)


@hard_cases
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_slices_of_any_scale(case, scale):
    array, view, _, _ = case
    arrange = lambda seed: {"w": array(seed)}  # noqa: E731
    tx = chain({"w": view})
    np.testing.assert_allclose(
        second_update(tx, arrange, scale)["w"],
        second_update(tx, arrange)["w"],
        atol=FLOAT32,
    )


@hard_cases
@pytest.mark.parametrize("bad", [jnp.nan, 0.0])
def test_one_bad_matrix_of_an_arrangement_leaves_the_others(case, bad):
    """A matrix of NaN gets NaN, one of zeros gets zero."""
    array, view, take_apart, put_together = case

    def arrange(seed):
        first, *others = take_apart(array(seed))
        return {"w": put_together([jnp.full_like(first, bad), *others])}

    tx = chain({"w": view}, "unit_rms")
    good = second_update(tx, lambda seed: {"w": array(seed)})["w"]
    first, *others = take_apart(second_update(tx, arrange)["w"])
    np.testing.assert_array_equal(first, bad)
    for found, expected in zip(others, take_apart(good)[1:], strict=True):
        np.testing.assert_allclose(found, expected, atol=FLOAT32)


@hard_cases
def test_bfloat16_arrangements(case):
    """Within 5 % in norm: momentum is kept in bfloat16, which turns the direction."""
    array, view, _, _ = case
    tx = chain({"w": view}, "none")
    rounded = lambda seed: {"w": array(seed).astype(jnp.bfloat16)}  # noqa: E731
    exact = lambda seed: jax.tree.map(jnp.float32, rounded(seed))  # noqa: E731
    found = second_update(tx, rounded)["w"]
    assert found.dtype == jnp.bfloat16
    expected = second_update(tx, exact)["w"]
    error = jnp.linalg.norm(found.astype(jnp.float32) - expected)
    assert error < 0.05 * jnp.linalg.norm(expected)


def test_joint_and_per_head_are_different_updates():
    arrange = lambda seed: {"w": normal(D, H, K)(seed)}  # noqa: E731
    joint = MatrixSpec((0,), (1, 2))
    updates = [
        second_update(chain({"w": view}), arrange)["w"]
        for view in (joint, joint.per_head())
    ]
    assert np.abs(updates[0] - updates[1]).max() > 0.1


def test_each_block_has_its_own_shape_scale():
    """Fan-out 24, 6, 6 of fan-in 12: factors sqrt(2), 1, 1 and not sqrt(3)."""
    specs = {"qkv": MatrixSpec((0,), (1,), split=(24, 6, 6))}
    arrange = lambda seed: {"qkv": normal(12, 36)(seed)}  # noqa: E731
    tx = optax.chain(
        jopt.scale_by_orthogonalization(matrix_specs=specs, coeffs="polar_express"),
        jopt.scale_by_shape("jordan", matrix_specs=specs),
    )
    blocks = jnp.split(second_update(tx, arrange)["qkv"], [24, 30], 1)
    for block, factor in zip(blocks, (2**0.5, 1, 1), strict=True):
        sizes = np.linalg.svd(np.asarray(block, np.float64))[1]
        np.testing.assert_allclose(sizes, factor, rtol=0.05)


def test_dimension_numbers_of_optax_give_the_update_of_optax():
    """Also where Optax takes a tree, a beginning of one, or a function."""
    from optax.contrib import muon as optax_muon

    params = {
        "attn": {"q": normal(D, H, K)(0), "o": normal(H, K, D)(0)},
        "stack": {"up": normal(L, D, 8)(0), "down": normal(L, D, 8)(3)},
        "w": normal(D, 8)(0),
        "bias": normal(8)(0),
    }
    tree = {
        "attn": {
            "q": MuonDimensionNumbers(0, (1, 2)),
            "o": MuonDimensionNumbers((0, 1), 2),
        },
        "stack": MuonDimensionNumbers(1, 2),
        "w": MuonDimensionNumbers(),
        "bias": None,
    }
    grads = jax.tree.map(jnp.cos, params)

    def step(tx):
        return tx.update(grads, tx.init(params), params)[0]

    expected = step(optax_muon(0.1, muon_weight_dimension_numbers=tree))
    del expected["bias"]  # Their AdamW has Nesterov momentum.
    for specs in (tree, lambda params: tree):
        ours = jopt.muon(
            0.1,
            scale="jordan",
            coeffs="jordan",
            normalization="frobenius",
            compute_dtype="float32",
            matrix_specs=specs,
        )
        found = step(ours)
        del found["bias"]
        # Theirs rounds its 5 iterations differently; entries are below 0.2.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
        )


def test_one_number_for_each_output_input_or_matrix_of_any_arrangement(case):
    array, view, take_apart, put_together = case
    views = Views({"w": view})
    tree = {"w": array(0)}
    for zeros, axes in (
        (views.outputs, (1,)),
        (views.inputs, (2,)),
        (views.singles, (1, 2)),
    ):
        where = zeros(tree)

        def sums(spread, x_SMN, axes=axes):
            return jnp.sum(x_SMN, axes, keepdims=True)

        found = views.map(sums, tree)
        assert found["w"].shape == where["w"].shape and views.fit(tree, where)
        # Back beside the matrices: each is multiplied by its own sums.
        product = views.map(lambda spread, x, s: x * s, tree, found)["w"]
        expected = put_together(
            [
                part * jnp.sum(part, tuple(a - 1 for a in axes), keepdims=True)
                for part in take_apart(tree["w"])
            ]
        )
        np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-3)
    assert not views.fit(tree, {"w": jnp.zeros(7)})
