"""A measurement, and what follows from it for the choice of every matrix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.criteria import noise_scale, with_momentum
from jopt.errors import ConfigError
from jopt.transforms._choosing import (
    GEOMETRIES,
    NOISELESS,
    SPECTRAL,
    UNDECIDED,
    Choice,
    Criterion,
    GeometryName,
    Verdict,
    averaged,
    choose,
    draws,
    judge,
    toss,
)
from jopt.transforms._evidence import Evidence, SwitchCurvature, gather_evidence
from jopt.transforms._layer_tables import GEOMETRY, GEOMETRY_FIGURES, NO_FIGURE
from jopt.transforms._layout import Names
from jopt.transforms._polar import PolarMap
from jopt.transforms._singles import Singles
from jopt.transforms._switch_state import Decided
from jopt.tree import PyTree, map_named, named_leaves

# T matrices of a tree; F fields of `Evidence`; L leaves.

SwitchSignal = Literal["gradient", "direction"]


@dataclasses.dataclass(frozen=True)
class SwitchRule:
    """How measurements are made, averaged and judged; see `scale_by_geometry_switch`.

    Attributes:
        polar: of the measurement, accurate.
    """

    criterion: Criterion
    geometries: tuple[GeometryName, ...]
    polar: PolarMap
    curvature: SwitchCurvature
    signal: SwitchSignal
    b1: jax.typing.ArrayLike
    b2: jax.typing.ArrayLike
    ema_decay: jax.typing.ArrayLike
    hysteresis: jax.typing.ArrayLike
    min_dwell: jax.typing.ArrayLike
    rate: jax.typing.ArrayLike
    shares: Sequence[jax.typing.ArrayLike] | None
    seed: jax.typing.ArrayLike

    @property
    def needs(self) -> frozenset[str]:
        """The extra args that a measurement takes."""
        return switch_needs(self.criterion, self.curvature)

    def start(self, params: PyTree, initial: Mapping[str, Any] | None) -> Decided:
        """Before the first step; `initial`: path -> places in `GEOMETRIES`."""
        zeros = self.polar.views.singles(params, jnp.int32)
        first = jnp.int32(GEOMETRIES.index(self.geometries[0]))
        choice = map_named(
            lambda path, x: x + (first if initial is None else initial[path]), zeros
        )
        start = UNDECIDED if initial is None else 0
        rows = 1 + len(Evidence._fields)
        averages = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape)), zeros)
        table = (len(named_leaves(params)), len(GEOMETRY_FIGURES))
        singles = Singles.of(self.polar.views, params)
        metrics = {
            GEOMETRY: jnp.full(table, NO_FIGURE, jnp.float32),
            "spectral_share": _share(
                singles.means((singles.flat(choice) == SPECTRAL).astype(jnp.float32)),
                [math.prod(shape) for shape in singles.shapes.values()],
            ),
        }
        since = jax.tree.map(lambda x: x + jnp.int32(start), zeros)
        return Decided(choice, since, averages, metrics)

    def update(
        self, old: Decided, step: jax.Array, tree: PyTree, extra: Mapping[str, Any]
    ) -> Decided:
        """After a measurement of a tree of gradients, or directions.

        `extra`: `half_difference` and `activation_grams`, where there are any.
        """
        singles = Singles.of(self.polar.views, tree)
        if singles.count == 0:
            return old
        choice = Choice(singles.flat(old.choice), singles.flat(old.since))
        averages = singles.flat(old.averages)
        grams = extra.get("activation_grams") or {}
        cut = self._cut(tree)
        verdict = None
        if self.criterion == "random":
            draws_2T = draws(singles, self.seed, step, cut)
            choice = toss(
                draws_2T,
                choice,
                step,
                self.geometries,
                rate=self.rate,
                shares=self.shares,
            )
        else:
            found = self._measured(tree, extra, grams, singles, step)
            means, weight = averaged(
                averages[:-1], averages[-1], jnp.stack(found), self.ema_decay
            )
            averages = jnp.concatenate([means, weight[None]])
            verdict = judge(self.criterion, self.geometries, Evidence(*means))
            choice = choose(
                verdict.scores,
                choice,
                step,
                hysteresis=self.hysteresis,
                min_dwell=self.min_dwell,
            )
        figures = _figures(verdict, averages, choice.geometry)
        return Decided(
            singles.put(old.choice, choice.geometry),
            singles.put(old.since, choice.since),
            singles.put(old.averages, averages),
            self._metrics(old, singles, figures, grams, cut),
        )

    def _measured(
        self,
        tree: PyTree,
        extra: Mapping[str, Any],
        grams: Mapping[str, jax.Array],
        singles: Singles,
        step: jax.Array,
    ) -> Evidence:
        # log(nr / st) is about bounds of the curvature.
        ranks = self.criterion == "nuclear_stable"
        bounds = ranks and self.curvature != "dimension"
        found = gather_evidence(
            tree,
            extra.get("half_difference"),
            grams,
            polar=self.polar,
            mode="worst_case" if bounds else self.curvature,
            euclidean=ranks or "euclidean" in self.geometries,
            singles=singles,
        )
        if self.signal == "gradient":
            return found
        beta = equivalent_decay(self.b1, self.b2, step)
        return Evidence(*with_momentum(found.stats, beta), *found[6:])

    def _cut(self, tree: PyTree) -> dict[str, Names]:
        """The mesh axes over whose devices the matrices of a leaf are shared out here.

        None under `jit`, where all are seen as one, nor where only rows or columns are
        cut, since then the devices have numbers of one matrix.
        """
        layout, specs = self.polar.views.layout, self.polar.views.specs(tree)
        if layout is None or not layout.is_bound():
            return dict.fromkeys(specs, ())
        leaves = named_leaves(tree)
        return {
            path: layout.names(path, spec.axes(leaves[path].ndim)[0])
            for path, spec in specs.items()
        }

    def _metrics(
        self,
        old: Decided,
        singles: Singles,
        figures: jax.Array,
        grams: Mapping[str, jax.Array],
        cut: Mapping[str, Names],
    ) -> dict[str, jax.Array]:
        layout = self.polar.views.layout
        bound = layout is not None and layout.is_bound()
        names = tuple(layout.mesh.axis_names) if layout is not None and bound else ()
        has_gram = jnp.array(
            [float(grams.get(path) is not None) for path in singles.shapes]
        )
        means = singles.means(figures, names)
        rows = jnp.concatenate([means, has_gram[None]]).T
        paths = list(named_leaves(old.choice))
        places = jnp.array([paths.index(path) for path in singles.shapes])
        rows = jnp.where(jnp.isfinite(rows), rows, NO_FIGURE)
        counts = [
            math.prod(shape) * (layout.size(cut[path]) if layout else 1)
            for path, shape in singles.shapes.items()
        ]
        return {
            GEOMETRY: old.metrics[GEOMETRY].at[places].set(rows),
            "spectral_share": _share(means[-1], counts),
        }


def switch_needs(criterion: Criterion, curvature: SwitchCurvature) -> frozenset[str]:
    """The extra args that a measurement takes.

    >>> [sorted(switch_needs(name, "auto")) for name in ("spec_sign", "random")]
    [['activation_grams', 'half_difference'], []]
    """
    if criterion == "random":
        return frozenset()
    noise = () if criterion in NOISELESS else ("half_difference",)
    bare = curvature == "dimension" or criterion == "snr"
    return frozenset(noise if bare else (*noise, "activation_grams"))


def wanted(
    needs: frozenset[str], curvature: SwitchCurvature, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of the extra args that are in use.

    Fails: `ConfigError` for one that is missing. Only with the curvature `auto` may
    Gram matrices be.
    """
    if "half_difference" in needs and extra.get("half_difference") is None:
        raise ConfigError(
            "the geometry switch compares gradients with their noise: call "
            "tx.update(grads, state, params, half_difference=...), as training does "
            "for an optimizer that needs it; criterion='det' does without"
        )
    grams = "activation_grams" in needs and curvature != "auto"
    if grams and extra.get("activation_grams") is None:
        raise ConfigError(
            f"curvature={curvature!r} needs activation_grams=..., path -> A^T A / N; "
            "curvature='auto' takes them where there are any, 'dimension' does without"
        )
    return {name: extra[name] for name in needs if extra.get(name) is not None}


def equivalent_decay(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, step: jax.Array
) -> jax.Array:
    """The decay of a plain average whose noise is that of the direction of `dual_ema`.

    With independent noise of variance 1 in every gradient, M after t steps has (1 - b2)
    / (1 + b2) (1 - b2^(2 t)), and C = b1 M + (1 - b1) G has f^2 = (1 - b1)^2 + b1^2
    times that; a plain average has (1 - b) / (1 + b), so b = (1 - f^2) / (1 + f^2).

    >>> round(float(equivalent_decay(0.95, 0.95, jnp.int32(1000))), 4)
    0.95
    """
    b1, b2 = jnp.asarray(b1, jnp.float32), jnp.asarray(b2, jnp.float32)
    memory = (1 - b2) / (1 + b2) * (1 - b2 ** (2 * step))
    square = (1 - b1) ** 2 + b1**2 * memory
    return (1 - square) / (1 + square)


def _figures(
    verdict: Verdict | None, averages: jax.Array, geometry: jax.Array
) -> jax.Array:
    """All of `GEOMETRY_FIGURES` but the last, (figures, T); NaN where there is none."""
    spectral = (geometry == SPECTRAL).astype(jnp.float32)
    if verdict is None:
        nothing = jnp.full((len(GEOMETRY_FIGURES) - 2, *spectral.shape), jnp.nan)
        return jnp.concatenate([nothing, spectral[None]])
    stats = Evidence(*averages[:-1]).stats
    scales = noise_scale(stats, 1)
    measured = jnp.stack(
        [
            verdict.lead,
            verdict.found.det_term,
            verdict.found.noise_term,
            verdict.found.log_snr_ratio,
            (stats.s_nuc / stats.s_fro) ** 2,
            scales.sign,
            scales.spectral,
            scales.euclidean,
        ]
    )
    measured = jnp.where(averages[-1] > 0, measured, jnp.nan)
    return jnp.concatenate([measured, spectral[None]])


def _share(shares_L: jax.Array, counts_L: Sequence[int]) -> jax.Array:
    """Of all matrices, from that of the matrices of each leaf and their number."""
    counts = jnp.array(counts_L, jnp.float32)
    return jnp.sum(shares_L * counts) / max(sum(counts_L), 1)
