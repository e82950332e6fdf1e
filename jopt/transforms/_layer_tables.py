"""Figures of layers in the metrics of a state: one array, its parts by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.tree import PyTree, named_leaves

# L layers; F figures of one.

FIGURES = ("grad_norm", "update_norm", "weight_norm", "update_to_weight", "stable_rank")
NOT_MEASURED = -1.0  # no figure of these is negative
LAYERS = "layers"  # the one entry of `MonitorState.metrics`

GEOMETRY_FIGURES = (
    "spec_sign_index",
    "det_term",
    "noise_term",
    "log_snr_ratio",
    "nuclear_rank",
    "noise_scale_sign",
    "noise_scale_spectral",
    "noise_scale_euclidean",
    "spectral_share",
    "has_gram",
)
NO_FIGURE = float(np.finfo(np.float32).min)
GEOMETRY = "geometry"  # an entry of `SwitchState.metrics`

# Entry of `metrics` -> the names of its columns, and what stands where there is none.
TABLES = {
    LAYERS: (FIGURES, NOT_MEASURED),
    GEOMETRY: (GEOMETRY_FIGURES, NO_FIGURE),
}


def layer_metrics(metrics: Mapping[str, Any], params: PyTree) -> dict[str, Any]:
    """`layer/<path>/<figure>` -> number, from the tables among some metrics.

    A table (L, F) has a row for each leaf of `params`, of which only the names are
    read. Figures that were not measured are left out, and metrics that are no table.
    Needs values: call it outside of jit.

    >>> params = {"bias": np.zeros(3)}
    >>> found = layer_metrics({"layers": np.array([[2, 1, 4, 0.25, -1]])}, params)
    >>> float(found["layer/bias/update_to_weight"]), len(found)
    (0.25, 4)
    >>> layer_metrics({"layers": np.full((1, 5), NOT_MEASURED)}, params)
    {}
    """
    return {
        f"layer/{path}/{figure}": number
        for name, (figures, missing) in TABLES.items()
        if name in metrics
        for path, row_F in zip(named_leaves(params), metrics[name], strict=True)
        for figure, number in zip(figures, row_F, strict=True)
        if number != np.float32(missing)
    }


def merge_geometry(
    tables: Sequence[tuple[Sequence[str], jax.Array]], params: PyTree
) -> jax.Array:
    """One table (L, F) with a row for each leaf of `params`, from those of several.

    Args:
        tables: the paths of the rows, and the table, of each.

    >>> own = jnp.zeros((1, len(GEOMETRY_FIGURES)))
    >>> whole = merge_geometry([(["w"], own)], {"bias": 0, "w": 0})
    >>> whole[:, 0] == jnp.array([NO_FIGURE, 0.0])
    Array([ True,  True], dtype=bool)
    """
    paths = list(named_leaves(params))
    whole = jnp.full((len(paths), len(GEOMETRY_FIGURES)), NO_FIGURE, jnp.float32)
    for own, rows in tables:
        whole = whole.at[np.array([paths.index(path) for path in own])].set(rows)
    return whole
