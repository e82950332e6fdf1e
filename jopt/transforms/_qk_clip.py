"""Attention logits that stay below a threshold, by the weights that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, ShapeError, did_you_mean
from jopt.linalg import widened
from jopt.matrix import AttentionSpec, Heads, assemble
from jopt.transforms._sides import output_shape
from jopt.transforms._specs import is_hole
from jopt.transforms._weights import require_params
from jopt.tree import PyTree, named_leaves, path_string

# H heads of queries, G of keys, over all stacked layers.


class QkClipState(NamedTuple):
    """State of `qk_clip`.

    Attributes:
        metrics: of the last step, float32: `max_logit`, the largest logit of all heads,
            and `clipped`, how many heads were scaled.
    """

    metrics: dict[str, jax.Array]


def qk_clip(
    threshold: jax.typing.ArrayLike = 100.0,
    *,
    attention: Mapping[str, AttentionSpec],
) -> optax.GradientTransformationExtraArgs:
    """Scales the query and key weights of each head whose logits are too large.

    For head h with the largest logit S_h of the batch, g_h = min(1, threshold / S_h),
    and after the step, W being the weight that it would lead to,

        W_q <- sqrt(g_h) W_q,  W_k <- sqrt(g_h) W_k,

    so the products of the head shrink by g_h. Where a head of keys serves several heads
    of queries, with g* the least of theirs, the key takes sqrt(g*) and query h takes
    g_h / sqrt(g*): each product still shrinks by its own g_h. The logits were those of
    the weights before the step, so what comes out is below the threshold up to what the
    step itself changes. It comes after everything else in a chain.

    A head whose logit is NaN or infinite is left alone: scaling it by 0 would end it.
    Layers that are `normed` are only watched: the scale of their weights has no effect.

    Args:
        threshold: of logits as they enter the softmax, scaled and masked; may be
            traced.
        attention: the layers, by the name that they have in `max_attention_logits`, as
            in `jopt.models.Model.attention`. Static.

    `update` takes `max_attention_logits`: name -> array with the largest logit of each
    head of queries over the whole batch, heads in the order of the weight, stacked
    layers first. Axes before these are microbatches, over which the maximum is taken.
    Inside `shard_map` take that over the devices first; heads must not be cut there.

    State: two numbers for `metrics`. Cost: one pass over the query and key weights.
    Fails: `ConfigError` for a threshold of 0 or less, for a path that is no parameter,
    without `params` or `max_attention_logits`; `ShapeError` for numbers of heads that
    do not fit.

    References: Kimi Team 2025, Kimi K2 (MuonClip), arXiv 2507.20534. The rule for
    shared keys is ours; the one for compressed keys (MLA) is not here.

    >>> from jopt.matrix import MatrixSpec
    >>> view = MatrixSpec((0,), (1, 2)).per_head()
    >>> layer = AttentionSpec(Heads("q", view), Heads("k", view))
    >>> tx = qk_clip(100.0, attention={"attn": layer})
    >>> w = {"q": jnp.ones((1, 2, 1)), "k": jnp.ones((1, 2, 1))}
    >>> none = jax.tree.map(jnp.zeros_like, w)
    >>> logits = {"attn": jnp.array([50.0, 400.0])}
    >>> step, _ = tx.update(none, tx.init(w), w, max_attention_logits=logits)
    >>> (w["q"] + step["q"]).ravel().tolist()
    [1.0, 0.5]
    """
    if isinstance(threshold, int | float) and threshold <= 0:
        raise ConfigError(f"the threshold of qk_clip is {threshold}; it is above 0")
    if not attention:
        raise ConfigError(
            "qk_clip has no attention layer: declare in `attention` which weights make "
            "the logits"
        )

    def init(params: PyTree) -> QkClipState:
        _check(attention, params)
        zero = jnp.zeros((), jnp.float32)
        return QkClipState({"max_logit": zero, "clipped": zero})

    def update(
        updates: PyTree,
        state: QkClipState,
        params: PyTree = None,
        *,
        max_attention_logits: Mapping[str, jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, QkClipState]:
        del state, extra_args
        require_params("qk_clip", params)
        found = max_attention_logits or {}
        missing = [name for name in attention if name not in found]
        if missing:
            raise ConfigError(
                f"qk_clip was given no max_attention_logits for {', '.join(missing)}: "
                "call tx.update(..., max_attention_logits={name: largest logits})"
            )
        shapes = {path: leaf.shape for path, leaf in named_leaves(params).items()}
        present = {
            name: layer
            for name, layer in attention.items()
            if {layer.queries.path, layer.keys.path} <= shapes.keys()
        }
        factors: dict[str, jax.Array] = {}
        largest, clipped = jnp.float32(-jnp.inf), jnp.float32(0)
        for name, layer in present.items():
            logits_H = _of_heads(name, found[name], layer, shapes)
            largest = jnp.maximum(largest, jnp.max(logits_H))
            if layer.normed:
                continue
            ratio_H = _ratios(logits_H, threshold)
            clipped += jnp.sum(ratio_H < 1, dtype=jnp.float32)
            for heads, factor in _shares(ratio_H, layer, shapes):
                whole = _over_weight(heads, factor, shapes[heads.path])
                factors[heads.path] = whole * factors.get(heads.path, 1.0)
        metrics = {"max_logit": largest, "clipped": clipped}
        return _scaled(updates, params, factors), QkClipState(metrics)

    return optax.GradientTransformationExtraArgs(init, update)


def _check(attention: Mapping[str, AttentionSpec], params: PyTree) -> None:
    """Fails for paths that are no parameter, masked ones aside, and for odd heads."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hole)
    known = {path_string(key_path): leaf for key_path, leaf in leaves}
    for name, layer in attention.items():
        counts = []
        for heads in (layer.queries, layer.keys):
            if heads.path not in known:
                raise ConfigError(
                    f"attention layer {name!r} has a weight {heads.path!r}, which is "
                    f"no parameter{did_you_mean(heads.path, known)}"
                )
            leaf = known[heads.path]
            counts += [] if is_hole(leaf) else [heads.count(leaf.shape)]
        if len(counts) == 2 and counts[0] % counts[1]:
            raise ShapeError(
                f"attention layer {name!r} has {counts[0]} heads of queries, which "
                f"{counts[1]} heads of keys cannot share alike"
            )


def _of_heads(
    name: str,
    logits: jax.Array,
    layer: AttentionSpec,
    shapes: Mapping[str, tuple[int, ...]],
) -> jax.Array:
    """The largest logit of each head, float32 (H,); the maximum over other axes."""
    heads = layer.queries.count(shapes[layer.queries.path])
    if logits.size % heads:
        raise ShapeError(
            f"max_attention_logits[{name!r}] has shape {logits.shape}; "
            f"{layer.queries.path} has {heads} heads. Inside shard_map heads must not "
            "be cut"
        )
    return jnp.max(logits.astype(jnp.float32).reshape(-1, heads), axis=0)


def _ratios(logits_H: jax.Array, threshold: jax.typing.ArrayLike) -> jax.Array:
    above_H = jnp.isfinite(logits_H) & (logits_H > threshold)
    return jnp.where(above_H, threshold / jnp.where(above_H, logits_H, 1), 1)


def _shares(
    ratio_H: jax.Array, layer: AttentionSpec, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[Heads, jax.Array], tuple[Heads, jax.Array]]:
    """The factor of each head of queries and of keys, whose products are the ratios."""
    keys = layer.keys.count(shapes[layer.keys.path])
    shared_GH = ratio_H.reshape(keys, -1)
    key_G = jnp.sqrt(shared_GH.min(axis=1))
    query_H = (shared_GH / key_G[:, None]).reshape(-1)
    return (layer.queries, query_H), (layer.keys, key_G)


def _over_weight(
    heads: Heads, factor_S: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """A factor for each head, as an array that multiplies the weight; 1 elsewhere."""
    stacks = [
        jnp.ones((batch, 1, fan_out)) for batch, _, fan_out in heads.spec.blocks(shape)
    ]
    stacks[heads.block] *= factor_S[:, None, None]
    return assemble(stacks, heads.spec, output_shape(shape, heads.spec))


def _scaled(
    updates: PyTree, params: PyTree, factors: Mapping[str, jax.Array]
) -> PyTree:
    """Updates that lead to the scaled weights; exactly as they were where it is 1."""

    def one(key_path: tuple[Any, ...], u: jax.Array | None, w: jax.Array) -> Any:
        factor = factors.get(path_string(key_path))
        if u is None or factor is None:
            return u
        lost = (1 - factor) * (widened(w) + widened(u))
        return (widened(u) - lost).astype(u.dtype)

    return jax.tree_util.tree_map_with_path(
        one, updates, params, is_leaf=lambda x: x is None
    )
