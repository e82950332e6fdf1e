"""Steepest directions in the norms of layers that are not spectral."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jopt.errors import check_choice
from jopt.matrix import MatrixSpec
from jopt.transforms._dispatch import Spread
from jopt.transforms._norms import divided, input_rms, output_rms
from jopt.transforms._views import Views
from jopt.tree import PyTree, map_named

# S stacked matrices; M fan-in n; N fan-out.

LayerNorm = Literal["sign", "column", "row"]


def layer_direction(norm: LayerNorm, views: Views) -> Callable[[PyTree], PyTree]:
    """The map of gradients to the D of unit norm that maximise <G, D>.

    As in `jopt.linalg.geometry`, with inputs i and outputs j, and the dimensions that
    make the norms independent of width:

    - `sign`: sign(G_ij) / n, of norm n max |W_ij|, for layers of large fan-in n whose
      outputs are logits. A parameter that is no matrix has its last axis for n.
    - `column`: G_i. / RMS(G_i.), of norm max RMS(W_i.), for one-hot inputs. A
      parameter that is no matrix counts as one input: G / RMS(G), for biases and gains.
    - `row`: G_.j / (n RMS(G_.j)), of norm n max RMS(W_.j).

    Zero gives zero. The scale of the gradient has no effect. Inside `shard_map` norms
    and fan-ins are those of whole matrices.

    Fails: `ConfigError` for another norm.

    >>> direction = layer_direction("sign", Views(others_whole=True))
    >>> g = {"head": jnp.array([[3.0], [-4.0]]), "gain": jnp.ones(4)}
    >>> direction(g)["head"].tolist(), direction(g)["gain"].tolist()
    ([[0.5], [-0.5]], [0.25, 0.25, 0.25, 0.25])
    """
    check_choice("norm", norm, get_args(LayerNorm))

    def signs(tree: PyTree) -> PyTree:
        sizes = fan_ins(views, tree)
        return map_named(lambda path, g: jnp.sign(g) / sizes[path], tree)

    def columns(tree: PyTree) -> PyTree:
        return views.map(lambda at, g: divided(g, input_rms(at, g)), tree)

    def rows(tree: PyTree) -> PyTree:
        def unit(at: Spread, g_SMN: jax.Array) -> jax.Array:
            return divided(g_SMN, output_rms(at, g_SMN)) / (g_SMN.shape[1] * at.rows)

        return views.map(unit, tree)

    return {"sign": signs, "column": columns, "row": rows}[norm]


def fan_ins(views: Views, tree: PyTree) -> Mapping[str, int]:
    """The fan-in of each leaf by path; without a view, the length of its last axis.

    >>> fan_ins(Views(others_whole=True), {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    {'b': 3, 'w': 2}
    """
    specs = views.specs(tree)
    whole = tree if views.layout is None else views.layout.global_shapes(tree)
    sizes: dict[str, int] = {}

    def note(path: str, leaf: jax.Array) -> None:
        sizes[path] = _fan_in(leaf.shape, specs.get(path))

    map_named(note, whole)
    return sizes


def _fan_in(shape: tuple[int, ...], spec: MatrixSpec | None) -> int:
    fan_in = (shape or (1,))[-1] if spec is None else spec.dims(shape)[1]
    return max(fan_in, 1)
