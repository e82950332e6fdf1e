"""Cross-entropy of the next token, as a loss and as exact sums for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt.models import Model
from jopt.objectives._aux import Aux

# B batch; T positions; V vocabulary; E domains.

Objective = Callable[..., tuple[jax.Array, Aux]]


def language_model(
    model: Model, *, train: bool = True, taps: Sequence[str] = ()
) -> Objective:
    """Mean cross-entropy in nats over the tokens that the mask keeps.

        value = sum_bt m_bt (logsumexp(z_bt) - z_bt[y_bt]) / sum_bt m_bt

    A batch whose mask is all zero has value 0 and zero gradients. Logits z may have any
    float dtype; everything after them is float32.

    Args:
        model: whose outputs are logits (B, T, V).
        train: dropout on and statistics updated; False makes the key unused.
        taps: activations to hand out in `Aux.taps`.

    Returns:
        `objective(params, model_state, batch, key) -> (value, Aux)`. The batch holds
        `inputs`, `targets` int32 (B, T) and `mask` float32 (B, T). Metrics: `loss`,
        `tokens` (sum of the mask), `accuracy` (share of these tokens whose target has
        the largest logit; a target that ties with n - 1 others counts 1/n).

    >>> from jopt.models import transformer_lm
    >>> model = transformer_lm({"num_layers": 1, "embed_dim": 8, "num_heads": 2})
    >>> ids = jnp.zeros((2, 3), jnp.int32)
    >>> batch = {"inputs": ids, "targets": ids, "mask": jnp.ones((2, 3))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> value, aux = language_model(model)(params, state, batch, jax.random.key(1))
    >>> value.round(4), aux.metrics["tokens"]  # log 256, since the head starts at zero
    (Array(5.5452, dtype=float32), Array(6., dtype=float32))
    """
    taps = tuple(taps)

    def objective(
        params: Any, model_state: Any, batch: Mapping[str, Any], key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        logits_BTV, model_state, tapped = model.apply(
            params, model_state, batch, key=key, train=train, taps=taps
        )
        mask_BT = batch["mask"].astype(jnp.float32)
        tokens = jnp.sum(mask_BT)
        divisor = jnp.where(tokens > 0, tokens, 1.0)
        nats_BT = cross_entropy(logits_BTV, batch["targets"])
        value = jnp.sum(nats_BT * mask_BT) / divisor
        correct = jnp.sum(_hits(logits_BTV, batch["targets"]) * mask_BT)
        metrics = {"loss": value, "tokens": tokens, "accuracy": correct / divisor}
        return value, Aux(metrics, model_state, tapped)

    return objective


def language_model_sums(
    model: Model, *, num_domains: int | None = None
) -> Callable[[Any, Any, Mapping[str, Any]], dict[str, jax.Array]]:
    """Sums over a batch, so that means over many batches weigh every token alike.

    Args:
        model: whose outputs are logits (B, T, V).
        num_domains: also sum each domain on its own; sequences whose `domain` lies
            outside 0 .. num_domains - 1 count in the totals only.

    Returns:
        `sums(params, model_state, batch)` with float32 scalars `nats`, `tokens`,
        `correct`, and with `num_domains` also `domain_nats`, `domain_tokens`,
        `domain_correct` of shape (num_domains,). Counts are exact below 2^24 tokens a
        batch.
    """

    def sums(
        params: Any, model_state: Any, batch: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        logits_BTV, _, _ = model.apply(
            params, model_state, batch, key=None, train=False
        )
        targets_BT, mask_BT = batch["targets"], batch["mask"].astype(jnp.float32)
        rows = {
            "nats": jnp.sum(cross_entropy(logits_BTV, targets_BT) * mask_BT, axis=-1),
            "tokens": jnp.sum(mask_BT, axis=-1),
            "correct": jnp.sum(_hits(logits_BTV, targets_BT) * mask_BT, axis=-1),
        }
        totals = {name: jnp.sum(row_B) for name, row_B in rows.items()}
        if num_domains is not None:
            member_BE = jax.nn.one_hot(batch["domain"], num_domains, dtype=jnp.float32)
            for name, row_B in rows.items():
                totals[f"domain_{name}"] = jnp.sum(row_B[:, None] * member_BE, axis=0)
        return totals

    return sums


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """logsumexp(z) - z[y] of each position, float32.

    >>> cross_entropy(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), jnp.int32)).round(4)
    Array([[1.3863]], dtype=float32)
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    picked_BT1 = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT1[..., 0]


def _hits(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """1 where the target's logit is the largest, 1/n where n logits share that place.

    Cheaper than `argmax`, which XLA does not vectorise on a CPU.
    """
    picked_BT1 = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)
    largest_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    ties_BT = jnp.sum(logits_BTV >= largest_BT1, axis=-1, dtype=jnp.float32)
    hit_BT = (picked_BT1 >= largest_BT1)[..., 0]
    return hit_BT / jnp.maximum(ties_BT, 1.0)
