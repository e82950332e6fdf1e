"""Sign descent: the steepest direction in the largest-entry norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jopt.tree import PyTree


def sign_tree(tree: PyTree) -> PyTree:
    """The sign of every entry; sign(0) = 0, and NaN stays NaN.

    >>> sign_tree({"w": jnp.array([-2.0, 0.0])})["w"].tolist()
    [-1.0, 0.0]
    """
    return jax.tree.map(jnp.sign, tree)


def scale_by_sign() -> optax.GradientTransformationExtraArgs:
    """Replaces every entry by its sign.

    sign(G) maximises <G, D> over all D with largest entry 1, and <G, sign(G)> is the
    sum of the absolute entries. The scale of the gradient has no effect.

    State: none.
    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434.

    >>> tx = scale_by_sign()
    >>> tx.update(jnp.array([-2.0, 0.0, 1e-30]), tx.init(jnp.zeros(3)))[0].tolist()
    [-1.0, 0.0, 1.0]
    """

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra_args
        return sign_tree(updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
