"""Mixup between environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.models import Model
from jopt.objectives._aux import Aux
from jopt.objectives._cross_entropy import cross_entropy, hits, masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    initial_state,
)
from jopt.objectives.environments._build import Terms, metrics_of
from jopt.objectives.environments._forward import look, mean_risk

# E environments; B rows of each.


def mixup(
    model: Model,
    *,
    alpha: jax.typing.ArrayLike = 0.2,
    train: bool = True,
    taps: tuple[str, ...] = (),
) -> Algorithm:
    """Mean over pairs of λ CE(f(λ x_i + (1 − λ) x_j), y_i) + (1 − λ) CE(·, y_j).

    Environments are paired in a random cycle, row by row, with one λ ~ Beta(α, α) for
    each of the E pairs. A row counts where both of its halves are kept. One environment
    is mixed with itself: ERM. `accuracy` and `env0/risk` are those of the mixed rows.

    Args:
        model: whose outputs are logits.
        alpha: α; may be traced, it is state.
        train, taps: as in `erm`.

    Fails: `ConfigError` for inputs that are whole numbers (tokens), or without a key.
    References: as in DomainBed, Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434; mixup
    is that of Zhang et al., 2018, arXiv 1710.09412 (the id recalled).

    >>> from jopt.models import mlp
    >>> mixup(mlp({}), alpha=1).init({}, 2).settings["alpha"]
    Array(1., dtype=float32)
    """

    def init(params: Any, num_environments: int) -> AlgorithmState:
        del params, num_environments
        return initial_state({"alpha": alpha})

    def loss(
        params: Any,
        model_state: Any,
        state: AlgorithmState,
        batch: Mapping[str, Any],
        key: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Aux, AlgorithmState]]:
        keys = jax.random.split(need_key(key, "mixup"), 3)
        mixed, other, share_E = _mix(batch, state.settings["alpha"], *keys[:2])
        seen, model_state, tapped = look(
            model, params, model_state, mixed, keys[2], train, tuple(taps)
        )

        def blend(figure: Any) -> jax.Array:
            first, second = (figure(seen.logits, y) for y in (seen.targets, other))
            share = _like(share_E, first)
            return share * first + (1 - share) * second

        seen = seen._replace(
            risks=jax.vmap(masked_average)(blend(cross_entropy), seen.mask)
        )
        value = mean_risk(seen)
        metrics = metrics_of(Terms(value, jnp.float32(0), {}), seen)
        metrics["accuracy"] = masked_average(blend(hits), seen.mask)
        aux = Aux(metrics, model_state, tapped)
        return value, (aux, state._replace(step=state.step + 1))

    return Algorithm(init, loss)


def _mix(
    batch: Mapping[str, Any],
    alpha: jax.Array,
    order_key: jax.Array,
    share_key: jax.Array,
) -> tuple[dict[str, Any], jax.Array, jax.Array]:
    """The batch of mixed rows, the targets of the second half, and λ (E,)."""
    x, mask = batch["inputs"], batch["mask"]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ConfigError(
            f"mixup: inputs are {x.dtype}, which cannot be mixed; use it on images, or "
            "another algorithm"
        )
    count = len(mask)
    first = jax.random.permutation(order_key, count)
    second = jnp.roll(first, -1)
    share_E = jax.random.beta(share_key, alpha, alpha, (count,))
    share = _like(share_E, x).astype(x.dtype)
    mixed = {name: rows[first] for name, rows in batch.items()}
    mixed["inputs"] = share * x[first] + (1 - share) * x[second]
    mixed["mask"] = mask[first] * mask[second]
    return mixed, batch["targets"][second], share_E


def _like(x_E: jax.Array, other: jax.Array) -> jax.Array:
    return x_E.reshape(-1, *[1] * (other.ndim - 1))


def need_key(key: jax.Array | None, name: str) -> jax.Array:
    """The key, or `ConfigError` for an algorithm that draws and has none.

    >>> need_key(None, "mixup")
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: mixup draws at random in each step: give its loss a key
    """
    if key is None:
        raise ConfigError(f"{name} draws at random in each step: give its loss a key")
    return key
