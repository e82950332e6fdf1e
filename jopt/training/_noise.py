"""Signal and noise of a whole gradient, in the norms that belong to its rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jopt.criteria import tree_stats
from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.optimizers import Row
from jopt.training._batch_rule import Pair
from jopt.tree import PyTree, global_norm, named_leaves

EUCLIDEAN, SIGN, SPECTRAL = GEOMETRIES = ("euclidean", "sign", "spectral")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class NoiseGauge:
    """Which parameters are measured in which geometry.

    All parameters of one geometry are one vector, and their norm is

    - `sign`: the largest entry of all, whose dual is sum |g_i| over all of them;
    - `spectral`: the largest singular value of any matrix, whose dual is the sum of the
      nuclear norms of all matrices;
    - `euclidean`: the Euclidean norm of the whole, its own dual.

    So signal and noise of the layers are added up (squares, where Euclidean) before any
    ratio is taken: a layer counts by what it adds to the predicted decrease of a step
    of one size in all layers.

    Attributes:
        paths: geometry -> the parameters that are measured in it.
        specs: the matrix views of the spectral ones.
        main: the geometry that decides.
    """

    paths: Mapping[str, tuple[str, ...]]
    specs: Mapping[str, MatrixSpec]
    main: str

    def __call__(self, grads: PyTree, half_difference: PyTree) -> dict[str, Pair]:
        """Geometry -> dual norms of the gradient and of its half difference, float32.

        Cost: two passes over the gradient, and one polar factor of each of the two for
        every matrix that is measured in the spectral geometry: 16 (4 M^2 N + 2 M^3)
        flop for M x N, in one call for each shape.
        """
        sides = [
            {
                path: leaf.astype(jnp.float32)
                for path, leaf in named_leaves(tree).items()
            }
            for tree in (grads, half_difference)
        ]
        return {
            name: self._norms(name, [{p: side[p] for p in paths} for side in sides])
            for name, paths in self.paths.items()
        }

    def _norms(self, geometry: str, sides: Sequence[dict[str, jax.Array]]) -> Pair:
        if geometry == SPECTRAL:
            return _nuclear_norms(sides, self.specs)
        norms: dict[str, Callable[[PyTree], jax.Array]]
        norms = {SIGN: _sum_of_sizes, EUCLIDEAN: global_norm}
        signal, noise = map(norms[geometry], sides)
        return signal, noise


def choose_gauge(table: Sequence[Row], geometry: str = AUTO) -> NoiseGauge:
    """Each parameter in the geometry of its rule; that with most parameters decides.

    Args:
        table: of an `Optimizer`.
        geometry: `auto`, or the one in which the parameters that decide are measured
            instead of their own.

    Fails: `ConfigError` for `spectral` where one of them has no matrix view.

    >>> from jopt.optimizers import build
    >>> rule = {"match": ".*", "name": "lion", "learning_rate": 1e-4}
    >>> config = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    >>> table = build(config, {"w": jnp.zeros((2, 3))}).table
    >>> gauge = choose_gauge(table)
    >>> gauge.main, gauge.paths
    ('sign', {'sign': ('w',)})
    """
    sizes = dict.fromkeys(GEOMETRIES, 0)
    for row in table:
        sizes[row.geometry] += math.prod(row.shape)
    largest = max(sizes, key=lambda name: sizes[name])
    main = largest if geometry == AUTO else geometry
    paths: dict[str, tuple[str, ...]] = {}
    specs: dict[str, MatrixSpec] = {}
    for row in table:
        name = main if row.geometry == largest else row.geometry
        paths[name] = (*paths.get(name, ()), row.path)
        if name != SPECTRAL:
            continue
        if row.spec is None:
            raise ConfigError(
                "train.adaptive_batch.geometry is 'spectral', but it would decide by "
                f"{row.path} {row.shape}, which has no matrix view; use 'auto', or "
                "give it to another rule"
            )
        specs[row.path] = row.spec
    return NoiseGauge(paths, specs, main)


def _sum_of_sizes(leaves: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.sum(jnp.abs(x)) for x in leaves.values()]))


def _nuclear_norms(
    sides: Sequence[dict[str, jax.Array]], specs: Mapping[str, MatrixSpec]
) -> Pair:
    # Only the nuclear norms are read, and only they are computed.
    mean, difference = sides
    stats = tree_stats(mean, difference, specs).values()
    signal, noise = ([getattr(x, name) for x in stats] for name in ("s_nuc", "n_nuc"))
    return jnp.sum(jnp.concatenate(signal)), jnp.sum(jnp.concatenate(noise))
