"""Grouping: one call for each shape, and no leaf can tell that it was grouped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.linalg import orthogonalize
from jopt.matrix import MatrixSpec
from jopt.transforms import map_matrices, resolve_specs


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def polar_update(grads, specs=None, **options):
    tx = jopt.scale_by_orthogonalization(nesterov=False, matrix_specs=specs, **options)
    return tx.update(grads, tx.init(grads))[0]


def test_equal_shapes_up_to_transposition_share_one_call():
    tree = {
        "up": normal(3, 5),
        "down": normal(5, 3),
        "stack": normal(4, 3, 5),
        "square": normal(3, 3),
        "half": normal(3, 5).astype(jnp.bfloat16),
        "fused": normal(3, 13),
    }
    specs = resolve_specs(
        tree,
        {
            "stack": MatrixSpec((1,), (2,)),
            "fused": MatrixSpec((0,), (1,), split=(5, 5, 3)),
        },
    )
    seen = []

    def double(x_SMN):
        seen.append((x_SMN.shape, str(x_SMN.dtype)))
        return 2 * x_SMN

    doubled = map_matrices(double, tree, specs)
    assert sorted(seen) == [
        ((1, 3, 5), "bfloat16"),
        ((2, 3, 3), "float32"),
        ((8, 3, 5), "float32"),
    ]
    for name, leaf in tree.items():
        np.testing.assert_array_equal(doubled[name], 2 * leaf)


def test_grouped_equals_each_leaf_alone():
    grads = {"a": normal(4, 7), "b": normal(7, 4, seed=1), "c": normal(4, 4, seed=2)}
    for name, update in polar_update(grads).items():
        np.testing.assert_allclose(update, orthogonalize(grads[name]), atol=1e-5)


def test_stacked_leaf_equals_separate_leaves():
    stack = normal(3, 4, 6)
    together = polar_update({"w": stack}, {"w": MatrixSpec((1,), (2,))})["w"]
    apart = polar_update({str(i): stack[i] for i in range(3)})
    np.testing.assert_allclose(
        together, jnp.stack([apart[str(i)] for i in range(3)]), atol=1e-6
    )


def test_fused_leaf_with_split_equals_separate_leaves_scale_included():
    q, k, v = normal(8, 12), normal(8, 4, seed=1), normal(8, 4, seed=2)
    specs = {"qkv": MatrixSpec((0,), (1,), split=(12, 4, 4))}

    def update(grads, specs=None):
        tx = optax.chain(
            jopt.scale_by_orthogonalization(matrix_specs=specs),
            jopt.scale_by_shape("jordan", matrix_specs=specs),
        )
        return tx.update(grads, tx.init(grads))[0]

    fused = update({"qkv": jnp.concatenate([q, k, v], axis=1)}, specs)["qkv"]
    apart = update({"q": q, "k": k, "v": v})
    expected = jnp.concatenate([apart["q"], apart["k"], apart["v"]], axis=1)
    np.testing.assert_allclose(fused, expected, atol=1e-5)


def test_per_head_and_convolution_views():
    heads = normal(8, 2, 4)
    # Newton-Schulz magnifies the rounding of products, which are not alike in a stack
    # and alone on every CPU.
    update = polar_update({"q": heads}, {"q": MatrixSpec((0,), (2,))}, method="svd")[
        "q"
    ]
    for h in range(2):
        alone = orthogonalize(heads[:, h], method="svd")
        np.testing.assert_allclose(update[:, h], alone, atol=1e-5)

    kernel = normal(3, 3, 2, 8)
    update = polar_update({"conv_0": kernel}, method="svd")["conv_0"]
    flat = orthogonalize(kernel.reshape(18, 8), method="svd").reshape(kernel.shape)
    np.testing.assert_allclose(update, flat, atol=1e-5)


def test_sizes_of_zero_pass():
    grads = {"rows": jnp.zeros((0, 4)), "columns": jnp.zeros((2, 0)), "w": normal(2, 4)}
    grads |= {"stack": jnp.zeros((0, 2, 4)), "heads": jnp.zeros((0, 8))}
    specs = {
        "stack": MatrixSpec((1,), (2,), split=(2, 2)),
        "heads": MatrixSpec((0,), (1,), heads=2),
    }
    updates = polar_update(grads, specs)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, grads)
