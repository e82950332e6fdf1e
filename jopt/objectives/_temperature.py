"""Temperature scaling."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import JoptWarning
from jopt.objectives._cross_entropy import masked_figure
from jopt.objectives._weights import weighted

# N examples; C classes.


def fit_temperature(
    logits_NC: jax.Array, labels_N: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    """The T in [e^-5, e^5] that minimises the NLL of softmax(logits / T).

    The NLL is convex in 1/T, and its derivative there, the mean of E_p[z] - z_y, is
    halved in on in 40 steps. Fit T on validation examples and divide the logits of any
    split by it; no prediction changes. NaN where a logit that the mask keeps makes no
    distribution, NaN or inf. Warns where T is at an end of the interval, as with labels
    that logits say nothing about; what is compiled cannot warn, so ask `at_end` of the
    T that comes out of it.

    >>> logits = jnp.array([[2.0, 0.0]] * 4)
    >>> T = fit_temperature(logits, jnp.array([0, 0, 0, 1]))  # so that p_0 is 3/4
    >>> f"{T:.4f}, {2 / jnp.log(3.0):.4f}"
    '1.8205, 1.8205'
    """
    z_NC = logits_NC.astype(jnp.float32)
    z_NC = z_NC - jnp.max(z_NC, axis=-1, keepdims=True)
    picked_N = jnp.take_along_axis(z_NC, labels_N[..., None], axis=-1)[..., 0]

    def slope(log_inverse: jax.Array) -> jax.Array:
        p_NC = jax.nn.softmax(jnp.exp(log_inverse) * z_NC)
        # A class that a logit of -inf rules out has no part in the mean.
        mean_N = jnp.sum(weighted(z_NC, p_NC), axis=-1)
        return masked_figure(mean_N - picked_N, mask)

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        rises = slope(middle) > 0
        return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

    ends = jax.lax.fori_loop(0, 40, halve, (jnp.float32(-5), jnp.float32(5)))
    temperature = jnp.exp(-(ends[0] + ends[1]) / 2)
    # NaN is not above 0, so the halving goes on to an end.
    temperature = jnp.where(jnp.isnan(slope(jnp.float32(0))), jnp.nan, temperature)
    if not isinstance(temperature, jax.core.Tracer) and at_end(temperature):
        warnings.warn(
            f"fit_temperature: T = {float(temperature):.3g} is at the end of "
            "[e^-5, e^5]; the logits do not order these labels, or all are right",
            JoptWarning,
            stacklevel=2,
        )
    return temperature


def at_end(temperature: float | jax.Array) -> bool:
    """Whether a fitted T is at an end of [e^-5, e^5]; NaN is not.

    >>> at_end(1.8), at_end(148.413), at_end(float("nan"))
    (False, True, False)
    """
    return abs(math.log(temperature)) > 5 - 1e-4
