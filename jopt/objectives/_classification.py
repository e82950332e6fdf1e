"""Cross-entropy of a class."""

from __future__ import annotations

from collections.abc import Sequence

from jopt.models import Model
from jopt.objectives._cross_entropy import Objective, Sums, masked_mean, masked_sums

# B batch; C classes.


def classification(
    model: Model, *, train: bool = True, taps: Sequence[str] = ()
) -> Objective:
    """Mean cross-entropy in nats over the examples that the mask keeps.

        value = sum_b m_b (logsumexp(z_b) - z_b[y_b]) / sum_b m_b

    The rest is as in `language_model`.

    Args:
        model: whose outputs are logits (B, C).
        train: dropout on and statistics updated; False makes the key unused.
        taps: activations to hand out in `Aux.taps`.

    Returns:
        `objective(params, model_state, batch, key) -> (value, Aux)`. The batch holds
        `inputs` (B, ...), `targets` int32 (B,) and `mask` float32 (B,). Metrics:
        `loss`, `examples` (sum of the mask), `accuracy`.

    >>> import jax, jax.numpy as jnp
    >>> from jopt.models import mlp
    >>> model = mlp({"hidden_dim": 8})
    >>> batch = {"inputs": jnp.ones((2, 64)), "targets": jnp.zeros(2, jnp.int32),
    ...          "mask": jnp.ones(2)}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> value, aux = classification(model)(params, state, batch, jax.random.key(1))
    >>> value.round(4), aux.metrics["examples"]  # log 10: the head starts at zero
    (Array(2.3026, dtype=float32), Array(2., dtype=float32))
    """
    return masked_mean(model, "examples", train=train, taps=taps)


def classification_sums(model: Model, *, num_domains: int | None = None) -> Sums:
    """Sums over a batch: `nats`, `examples`, `correct`, as in `language_model_sums`."""
    return masked_sums(model, "examples", num_domains=num_domains)
