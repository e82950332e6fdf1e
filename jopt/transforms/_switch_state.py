"""What a geometry switch remembers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jopt.transforms._choosing import GEOMETRIES
from jopt.tree import PyTree, named_leaves

# F fields of `Evidence`; L leaves.


class Decided(NamedTuple):
    """The part of a state that changes only in steps that measure.

    Attributes:
        choice: trees with one number for each matrix, int32: a place in `GEOMETRIES`.
        since: likewise the step in which it was chosen, or -1 before that.
        averages: likewise (F + 1, ...) float32: the means of the fields of `Evidence`,
            and the sum of their weights.
        metrics: `geometry`, (L, figures); `spectral_share` of all matrices.
    """

    choice: PyTree
    since: PyTree
    averages: PyTree
    metrics: dict[str, jax.Array]


class SwitchState(NamedTuple):
    """State of `scale_by_geometry_switch`.

    Attributes:
        momentum: of `dual_ema`.
        step: int32; the first step is number 0.
        choice, since, averages, metrics: see `Decided`; `read_choices` names choices.
        grams_due: bool, whether the next update reads `activation_grams`.
    """

    momentum: Any
    step: jax.Array
    choice: PyTree
    since: PyTree
    averages: PyTree
    metrics: dict[str, jax.Array]
    grams_due: jax.Array

    @property
    def decided(self) -> Decided:
        """The part that changes only in steps that measure."""
        return Decided(self.choice, self.since, self.averages, self.metrics)


def read_choices(state: PyTree) -> dict[str, np.ndarray]:
    """path -> names of the geometries that its matrices have, from any optimizer state.

    Arrays of names, in the shape of the parameter with fan-in and fan-out of length 1
    (one column for each block or head of a fused output). Reads the device: call it
    outside of jit. They can be `choices` and `initial` of `scale_by_geometry_switch`.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jopt.transforms import scale_by_geometry_switch
    >>> tx = optax.chain(scale_by_geometry_switch("det", initial="spectral"))
    >>> read_choices(tx.init({"w": jnp.ones((2, 3))}))
    {'w': array([['spectral']], dtype='<U9')}
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, SwitchState))
    switches = [node for node in nodes if isinstance(node, SwitchState)]
    names = np.array(GEOMETRIES)
    return {
        path: names[np.asarray(codes)]
        for switch in switches
        for path, codes in named_leaves(switch.choice).items()
    }
