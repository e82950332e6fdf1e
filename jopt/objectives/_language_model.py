"""Cross-entropy of the next token."""

from __future__ import annotations

from collections.abc import Sequence

from jopt.models import Model
from jopt.objectives._cross_entropy import Objective, Sums, masked_mean, masked_sums

# B batch; T positions; V vocabulary.


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

    >>> import jax, jax.numpy as jnp
    >>> from jopt.models import transformer_lm
    >>> model = transformer_lm({"num_layers": 1, "embed_dim": 8, "num_heads": 2})
    >>> ids = jnp.zeros((2, 3), jnp.int32)
    >>> batch = {"inputs": ids, "targets": ids, "mask": jnp.ones((2, 3))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> value, aux = language_model(model)(params, state, batch, jax.random.key(1))
    >>> value.round(4), aux.metrics["tokens"]  # log 256, since the head starts at zero
    (Array(5.5452, dtype=float32), Array(6., dtype=float32))
    """
    return masked_mean(model, "tokens", train=train, taps=taps)


def language_model_sums(model: Model, *, num_domains: int | None = None) -> Sums:
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
    return masked_sums(model, "tokens", num_domains=num_domains)
