"""WUDI: the matrix that disturbs every task least, in the directions it writes to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jopt.linalg._einsum import einsum
from jopt.merging._matrices import matrix_reducer
from jopt.merging._transform import MergeTransform
from jopt.merging._vectors import Where
from jopt.transforms._specs import MatrixSpecs
from jopt.tree import norm

# T tasks; S stacked matrices; M, N fan-in and fan-out; K = T N.


def wudi(
    *,
    steps: int = 300,
    optimizer: optax.GradientTransformation | None = None,
    closed_form: bool = False,
    matrix_specs: MatrixSpecs = None,
    where: Where | None = None,
) -> MergeTransform:
    """Minimises sum_t ||K_t^H (K - K_t)||_F^2 / ||K_t||_F^2 over K, for each matrix.

    K_t (fan-in, fan-out) are the task matrices, and K starts at their sum. The
    published method takes 300 to 400 steps of Adam, which is not the minimum: it stays
    near the sum, and how near depends on the size of the vectors. Leaves that are no
    matrices get their mean.

    Args:
        steps, optimizer: `optax.adam(1e-5)` by default.
        closed_form: the minimum itself, of least norm where there are several.

    Cost: products (M, M) x (M, N) for each step; closed: the SVD of (M, T N).

    References: Cheng et al. 2025, WUDI-merging, arXiv 2503.08099. The closed form is
    ours.

    >>> from jopt.merging import MergeContext
    >>> tasks = {"w": jnp.array([[[3.0, 0], [0, 0]], [[0, 0], [0, 2]]])}
    >>> merged = wudi(closed_form=True).fn(tasks, MergeContext({}, jnp.ones(2)))["w"]
    >>> merged.round(4).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """
    chosen = optax.adam(1e-5) if optimizer is None else optimizer

    def descend(x_STMN: jax.Array) -> jax.Array:
        return _descend(x_STMN, steps, chosen)

    if closed_form:
        return matrix_reducer(_closed_form, matrix_specs, where)
    return matrix_reducer(descend, matrix_specs, where, unit_scale=False)


def _unit(x_STMN: jax.Array) -> jax.Array:
    """Each task's matrix over its norm; a zero matrix stays zero."""
    size_ST11 = jax.vmap(jax.vmap(norm))(x_STMN)[..., None, None]
    return x_STMN / jnp.where(size_ST11 > 0, size_ST11, 1)


def _descend(
    x_STMN: jax.Array, steps: int, optimizer: optax.GradientTransformation
) -> jax.Array:
    unit_STMN = _unit(x_STMN)
    gram_SMM = einsum("stmn,stln->sml", unit_STMN, unit_STMN.conj())
    pull_SMN = einsum("stmn,stln,stlk->smk", unit_STMN, unit_STMN.conj(), x_STMN)
    start_SMN = jnp.sum(x_STMN, axis=1)

    def step(_: jax.Array, carry: tuple) -> tuple:
        k_SMN, state = carry
        grads_SMN = 2 * (einsum("sml,sln->smn", gram_SMM, k_SMN) - pull_SMN)
        updates, state = optimizer.update(grads_SMN, state, k_SMN)
        return optax.apply_updates(k_SMN, updates), state

    carry = (start_SMN, optimizer.init(start_SMN))
    return jax.lax.fori_loop(0, steps, step, carry)[0]


def _closed_form(x_STMN: jax.Array) -> jax.Array:
    """The least squares solution of K_t^H K = K_t^H K_t over all t, each over ||K_t||.

    Solved as such and not by normal equations, which square the condition number.
    """
    stacked, tasks, _, columns = x_STMN.shape
    unit_STMN = _unit(x_STMN)
    rows_SKM = unit_STMN.conj().swapaxes(-1, -2).reshape(stacked, tasks * columns, -1)
    wanted_SKN = einsum("stmn,stmk->stnk", unit_STMN.conj(), x_STMN).reshape(
        stacked, tasks * columns, columns
    )
    return einsum("smk,skn->smn", jnp.linalg.pinv(rows_SKM), wanted_SKN)
