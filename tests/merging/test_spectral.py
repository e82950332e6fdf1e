"""TSV-M, Iso-C, Iso-CTS and WUDI against float64 references in NumPy."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.errors import ConfigError, JoptWarning
from jopt.matrix import MatrixSpec

V60 = np.array([0.5, 3**0.5 / 2])


def polar(x):
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    kept = s > s[0] * 1e-10
    return u[:, kept] @ vh[kept]


def tsv_reference(tasks, k):
    parts = [np.linalg.svd(x, full_matrices=False) for x in np.float64(tasks)]
    u = np.concatenate([u[:, :k] for u, _, _ in parts], axis=1)
    v = np.concatenate([vh[:k].T for _, _, vh in parts], axis=1)
    s = np.concatenate([s[:k] for _, s, _ in parts])
    return polar(u) * s @ polar(v).T


def iso_cts_reference(tasks, common):
    tasks = np.float64(tasks)
    count, r = len(tasks), min(tasks.shape[1:])
    c0 = int(np.floor(common * r + 1e-9))
    own = round((r - c0) / count) * count
    u, s, vh = np.linalg.svd(tasks.sum(axis=0), full_matrices=False)
    basis, n = u[:, : r - own], own // count
    parts = [np.linalg.svd(x - basis @ basis.T @ x, full_matrices=False) for x in tasks]
    u_all = np.concatenate([*(p[0][:, :n] for p in parts), basis], axis=1)
    v_all = np.concatenate([*(p[2][:n].T for p in parts), vh[: r - own].T], axis=1)
    s_all = np.concatenate([*(p[1][:n] for p in parts), s[: r - own]])
    return s_all.mean() * polar(u_all) @ polar(v_all).T


def wudi_reference(tasks):
    tasks = np.float64(tasks)
    sizes = [np.sum(x**2) for x in tasks]
    left = sum(x @ x.T / n for x, n in zip(tasks, sizes, strict=True))
    right = sum(x @ x.T @ x / n for x, n in zip(tasks, sizes, strict=True))
    return np.linalg.pinv(left) @ right


def orthogonal(draw, size, seed):
    return np.linalg.qr(np.float64(draw(size, size, seed=seed)))[0].astype(np.float32)


@pytest.mark.parametrize(
    ("method", "tasks", "expected"),
    [
        (merging.tsv_m(), [np.diag([3, 1]), np.diag([1, 2])], np.diag([3, 2])),
        (
            merging.tsv_m(),
            [3 * np.outer([1, 0], [1, 0]), 2 * np.outer(V60, V60)],
            [[2.933013, -0.25], [-0.25, 2.066987]],
        ),
        (merging.iso_c(), [np.diag([3, 1]), np.diag([1, 1])], 3 * np.eye(2)),
    ],
)
def test_hand_cases(reduced, method, tasks, expected):
    found = reduced(method, {"w": jnp.array(tasks, jnp.float32)})["w"]
    np.testing.assert_allclose(found, expected, atol=2e-6)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "shape",
    [
        (3, 6, 10),
        pytest.param((3, 10, 6), marks=SLOW),
        pytest.param((2, 8, 8), marks=SLOW),
    ],
)
def test_against_references(reduced, draw, shape):
    tasks = draw(*shape)
    stacked = {"w": tasks}
    r = min(shape[1:])
    cases = [
        (merging.tsv_m(), tsv_reference(tasks, r // shape[0])),
        (merging.tsv_m(rank=1), tsv_reference(tasks, 1)),
        (merging.tsv_m(energy=1.0), tsv_reference(tasks, r)),
        (merging.iso_cts(0.5), iso_cts_reference(tasks, 0.5)),
        (merging.iso_cts(0.8), iso_cts_reference(tasks, 0.8)),
        (merging.wudi(closed_form=True), wudi_reference(tasks)),
    ]
    for method, expected in cases:
        found = reduced(method, stacked)["w"]
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_at_any_scale(reduced, draw, size):
    tasks = draw(2, 6, 8)
    for method in (
        merging.tsv_m(),
        merging.iso_c(),
        merging.iso_cts(),
        merging.wudi(closed_form=True),
    ):
        expected = reduced(method, {"w": tasks})["w"]
        found = reduced(method, {"w": size * tasks})["w"] / np.float32(size)
        np.testing.assert_allclose(found, expected, atol=3e-5)


@pytest.mark.slow
def test_singular_values_and_rotations(reduced, draw):
    tasks = draw(2, 8, 6)
    left, right = orthogonal(draw, 8, 1), orthogonal(draw, 6, 2)
    kept = np.concatenate(
        [np.linalg.svd(x, compute_uv=False)[:3] for x in np.float64(tasks)]
    )
    total = np.linalg.svd(np.sum(np.float64(tasks), axis=0), compute_uv=False)
    values = {
        "tsv_m": np.sort(kept)[::-1],
        "iso_c": np.full(6, total.mean()),
    }
    for name, expected in values.items():
        method = merging.make_transform(name)
        found = reduced(method, {"w": tasks})["w"]
        np.testing.assert_allclose(
            np.linalg.svd(found, compute_uv=False), expected, atol=2e-5
        )
        rotated = reduced(
            method, {"w": jnp.einsum("ij,tjk,lk->til", left, tasks, right)}
        )
        np.testing.assert_allclose(rotated["w"], left @ found @ right.T, atol=2e-5)


@pytest.mark.slow
def test_equal_tasks_do_not_make_up_directions(reduced, draw):
    """The concatenation of equal triplets has half the rank of its columns."""
    one = draw(6, 6)
    found = reduced(merging.tsv_m(), {"w": jnp.stack([one, one])})["w"]
    assert np.linalg.matrix_rank(np.float64(found), tol=1e-4) == 3
    np.testing.assert_allclose(found, tsv_reference(np.stack([one, one]), 3), atol=2e-5)


def test_more_tasks_than_singular_values_are_not_a_zero_update(reduced, draw):
    tasks = {"w": draw(5, 3, 4)}
    with pytest.warns(JoptWarning, match="5 tasks are more than the 3"):
        found = reduced(merging.tsv_m(), tasks)["w"]
    np.testing.assert_allclose(found, tsv_reference(tasks["w"], 1), atol=2e-5)
    assert float(jnp.linalg.norm(found)) > 1


@pytest.mark.slow
def test_the_number_of_triplets_is_an_integer_division(reduced, draw):
    """int(r * (1 / T)) is 0 instead of 1 at r = T = 49."""
    assert int(49 * (1 / 49)) == 0
    tasks = jnp.zeros((49, 49, 49)).at[jnp.arange(49), jnp.arange(49), 0].set(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reduced(merging.tsv_m(), {"w": tasks})["w"]
    assert float(jnp.linalg.norm(found)) > 0.9
    with pytest.raises(ConfigError):
        merging.tsv_m(rank=0)


@pytest.mark.slow
def test_energy_keeps_the_fewest_triplets(reduced):
    tasks = {"w": jnp.array([np.diag([3.0, 1.0, 0.1])], jnp.float32)}
    found = reduced(merging.tsv_m(energy=0.95), tasks)["w"]
    np.testing.assert_allclose(found, np.diag([3, 1, 0]), atol=1e-5)


VIEWS = {
    "conv": ((3, 3, 2, 5), MatrixSpec((0, 1, 2), (3,))),
    "query": ((6, 2, 3), MatrixSpec((0,), (1, 2))),
    "out": ((2, 3, 6), MatrixSpec((0, 1), (2,))),
    "scanned": ((4, 5, 6), MatrixSpec((1,), (2,))),
    "fused": ((6, 12), MatrixSpec((0,), (1,), split=(6, 3, 3))),
    "heads": ((6, 2, 4), MatrixSpec((0,), (2,))),
}


def as_matrices(name, x):
    """What the view says, written out; a list of matrices and the way back."""
    shape, _ = VIEWS[name]
    if name == "scanned":
        return list(x), lambda parts: np.stack(parts)
    if name == "fused":
        cuts = np.split(x, [6, 9], axis=1)
        return cuts, lambda parts: np.concatenate(parts, axis=1)
    if name == "heads":
        return [x[:, h] for h in range(2)], lambda parts: np.stack(parts, axis=1)
    rows = {"conv": 18, "query": 6, "out": 6}[name]
    return [x.reshape(rows, -1)], lambda parts: parts[0].reshape(shape)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in ("query", "fused") else SLOW) for x in VIEWS],
)
def test_matrices_are_seen_as_declared(reduced, draw, name):
    shape, spec = VIEWS[name]
    tasks = draw(2, *shape)
    found = reduced(merging.tsv_m(matrix_specs={name: spec}), {name: tasks})[name]
    split = [as_matrices(name, np.float64(x)) for x in tasks]
    parts = [
        tsv_reference(np.stack(pair), min(pair[0].shape) // 2)
        for pair in zip(*(matrices for matrices, _ in split), strict=True)
    ]
    np.testing.assert_allclose(found, split[0][1](parts), atol=2e-5)


@pytest.mark.slow
def test_without_a_view_a_leaf_is_averaged(reduced, draw):
    tasks = {"qkv": draw(2, 6, 2, 3), "bias": draw(2, 6)}
    found = reduced(merging.tsv_m(), tasks)
    for path, leaf in tasks.items():
        np.testing.assert_allclose(found[path], leaf.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("names", [("q", "k", "v"), ("query", "key", "value")])
@pytest.mark.slow
def test_fused_attention_is_one_matrix(reduced, draw, names):
    tasks = {
        f"attn/{name}/kernel": draw(2, 6, 4, seed=i) for i, name in enumerate(names)
    }
    tasks["attn/out/kernel"] = draw(2, 6, 4, seed=4)
    method = merging.tsv_m(fuse_qkv=True)
    assert method.scope == "global"
    found = reduced(method, tasks)
    fused = np.concatenate([np.float64(x) for x in list(tasks.values())[:3]], axis=-1)
    expected = np.split(tsv_reference(fused, 3), 3, axis=1)
    for name, part in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[f"attn/{name}/kernel"], part, atol=2e-5)
    alone = reduced(merging.tsv_m(), tasks)["attn/out/kernel"]
    np.testing.assert_allclose(found["attn/out/kernel"], alone, atol=1e-6)


@pytest.mark.slow
def test_a_broken_matrix_is_alone(reduced, draw):
    tasks = draw(2, 3, 4, 4)
    method = merging.tsv_m(matrix_specs={"w": MatrixSpec((1,), (2,))})
    expected = reduced(method, {"w": tasks})["w"]
    found = reduced(method, {"w": tasks.at[0, 1, 0, 0].set(jnp.nan)})["w"]
    np.testing.assert_array_equal(found[::2], expected[::2])
    assert jnp.isnan(found[1]).all()
    still = reduced(method, {"w": tasks.at[:, 1].set(0.0)})["w"]
    assert not still[1].any()


@pytest.mark.slow
def test_wudi_steps_lead_to_the_closed_form(reduced, draw):
    import optax

    tasks = {"w": draw(3, 6, 4)}
    near = reduced(merging.wudi(steps=5), tasks)["w"]
    np.testing.assert_allclose(near, tasks["w"].sum(axis=0), atol=1e-4)
    far = reduced(merging.wudi(steps=3000, optimizer=optax.adam(0.01)), tasks)["w"]
    closed = reduced(merging.wudi(closed_form=True), tasks)["w"]
    np.testing.assert_allclose(far, closed, atol=1e-3)
