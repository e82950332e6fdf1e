"""The distillation loss with a temperature for each side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# C classes.


def distillation_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    teacher_temperature: Any = 1.0,
    student_temperature: Any = 1.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    """T_t T_s mean sum_c q_c (log q_c - log p_c), a KL divergence in nats.

    q = softmax(z_t / T_t) of the teacher, which has no gradient, p = softmax(z_s / T_s)
    of the student. The gradient with respect to z_s is T_t (p - q) / B, formed as this
    difference, so it is exactly 0 where both agree. With equal temperatures it is the
    usual T^2 KL. At the optimum z_s = (T_s / T_t) z_t up to a constant: a larger
    temperature of the student makes it more confident than its teacher.

    Args:
        student_logits, teacher_logits: (..., C), the same shape; float32 is used.
        mask: (...), weights of the examples; the mean is over their sum.

    References: Hinton et al. 2015, Distilling the knowledge in a neural network, arXiv
    1503.02531; two temperatures: Yoshida et al. 2026, DisTaC, arXiv 2508.01148.

    >>> z_t, z_s = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[0.5, 0.0, 0.0]])
    >>> float(distillation_loss(z_s, z_t).round(6)) == float(jnp.float32(0.129361))
    True
    """
    wide = jnp.promote_types(student_logits.dtype, jnp.float32)
    rows = _scaled_kl(
        student_logits.astype(wide),
        jax.lax.stop_gradient(teacher_logits).astype(wide),
        jax.lax.stop_gradient(jnp.asarray(teacher_temperature, wide)),
        jax.lax.stop_gradient(jnp.asarray(student_temperature, wide)),
    )
    if mask is None:
        return jnp.mean(rows)
    total = jnp.sum(mask)
    return jnp.sum(rows * mask) / jnp.where(total > 0, total, 1)


@jax.custom_jvp
def _scaled_kl(z_s: jax.Array, z_t: jax.Array, t_t: jax.Array, t_s: jax.Array) -> Any:
    logq, logp = jax.nn.log_softmax(z_t / t_t), jax.nn.log_softmax(z_s / t_s)
    q = jnp.exp(logq)
    # A class that the teacher rules out adds nothing: not 0 * inf.
    parts = jnp.where(q > 0, q * (logq - logp), 0)
    return t_t * t_s * jnp.sum(parts, axis=-1)


@_scaled_kl.defjvp
def _scaled_kl_jvp(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    z_s, z_t, t_t, t_s = primals
    difference = jnp.exp(jax.nn.log_softmax(z_s / t_s)) - jnp.exp(
        jax.nn.log_softmax(z_t / t_t)
    )
    slope = t_t * jnp.sum(difference * tangents[0], axis=-1)
    return _scaled_kl(*primals), slope


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of softmax(logits) in nats, (...,) of logits (..., C), float32 at least.

    >>> float(entropy(jnp.zeros((1, 4)))[0].round(4)) == float(jnp.float32(1.3863))
    True
    """
    logp = jax.nn.log_softmax(
        logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    )
    p = jnp.exp(logp)
    return -jnp.sum(jnp.where(p > 0, p * logp, 0), axis=-1)
