"""Where each optimizer becomes unstable, and how close a curvature is to that."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice

Number = jax.typing.ArrayLike


def _gradient_descent(eta: Number) -> jax.Array:
    return 2 / jnp.asarray(eta)


def _heavy_ball(eta: Number, momentum: Number) -> jax.Array:
    return (2 + 2 * jnp.asarray(momentum)) / eta


def _nesterov(eta: Number, momentum: Number) -> jax.Array:
    return _heavy_ball(eta, momentum) / (1 + 2 * jnp.asarray(momentum))


def _adam(eta: Number, momentum: Number) -> jax.Array:
    return _heavy_ball(eta, momentum) / (1 - jnp.asarray(momentum))


def _sam(eta: Number, rho: Number, grad_norm: Number) -> jax.Array:
    # G / (2 rho) (sqrt(1 + 8 rho / (eta G)) - 1), without its difference.
    size = jnp.asarray(grad_norm)
    flat = size == 0
    ratio = 8 * jnp.asarray(rho) / (eta * jnp.where(flat, 1, size))
    threshold = 4 / (eta * (jnp.sqrt(1 + ratio) + 1))
    still = jnp.where(jnp.asarray(rho) == 0, _gradient_descent(eta), 0)
    return jnp.where(flat, still, threshold)


def _steepest(eta: Number, dual_norm: Number) -> jax.Array:
    return _gradient_descent(eta) * dual_norm


# What each threshold asks for besides the learning rate, and how it comes about.
THRESHOLDS: dict[str, tuple[Callable[..., jax.Array], tuple[str, ...]]] = {
    "gd": (_gradient_descent, ()),
    "heavy_ball": (_heavy_ball, ("momentum",)),
    "nesterov": (_nesterov, ("momentum",)),
    "adam": (_adam, ("momentum",)),
    "sam": (_sam, ("rho", "grad_norm")),
    "sign": (_steepest, ("dual_norm",)),
    "muon": (_steepest, ("dual_norm",)),
}


def stability_threshold(
    optimizer: str,
    learning_rate: jax.typing.ArrayLike,
    *,
    momentum: jax.typing.ArrayLike | None = None,
    rho: jax.typing.ArrayLike | None = None,
    grad_norm: jax.typing.ArrayLike | None = None,
    dual_norm: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The curvature above which full-batch steps on a quadratic diverge.

    With eta the learning rate and beta the momentum:

    | optimizer    | step                          | threshold                         |
    |--------------|-------------------------------|-----------------------------------|
    | `gd`         | -eta g                        | 2 / eta [quoted]                  |
    | `heavy_ball` | m = beta m + g                | (2 + 2 beta) / eta [quoted]       |
    | `nesterov`   | the same, g + beta m          | ... / (1 + 2 beta) [quoted]       |
    | `adam`       | m an average, of P^-1 H       | (2 + 2 beta) / ((1 - beta) eta)   |
    |              |                               | [quoted]                          |
    | `sam`        | -eta g(w + rho g / G)         | G / (2 rho) (sqrt(1 + 8 rho /     |
    |              |                               | (eta G)) - 1) [quoted]            |
    | `sign`       | -eta sign(g)                  | 2 N / eta [derived]               |
    | `muon`       | -eta polar(g) of each matrix  | 2 N / eta [derived]               |

    For the last two the curvature is that of `curvature_in_norm` and N the dual norm of
    the gradient. Derived: a step of fixed length eta along the steepest direction D is
    one of regularised steepest descent, -h N D, at h = eta / N, and changes f by -h N^2
    + h^2 N^2 <D, H D> / 2, which can be a rise only where the curvature is above 2 / h.
    N falls with the oscillation, so such steps come to the edge on any quadratic,
    however flat: a ratio of 1 is where they end, and not a sign of progressive
    sharpening. Where signs alternate, the mean of 2 N / eta over two steps is exactly
    the curvature of a separable quadratic. With momentum the threshold is unknown:
    longer cycles appear, and that of a linear method, times N, was off by up to 10.

    Args:
        optimizer: a key of `THRESHOLDS`; static.
        learning_rate: eta at this step.
        momentum: beta, of `heavy_ball`, `nesterov` and `adam`.
        rho, grad_norm: of `sam`, the radius and G = |grad f|.
        dual_norm: N, of `sign` and `muon`.

    All numbers may be traced. SAM's threshold tends to 2 / eta for small rho, and to 0
    for a small gradient.
    Fails: `ConfigError` for another optimizer, an argument that is missing or one that
    it does not have.

    References: Cohen et al. 2021, Gradient descent on neural networks typically occurs
    at the edge of stability, arXiv 2103.00065; Cohen et al. 2022, arXiv 2207.14484
    (Adam); Long and Bartlett 2023, arXiv 2309.12488 (SAM).

    >>> float(stability_threshold("adam", 1e-3, momentum=0.9).round())
    38000.0
    """
    check_choice("optimizer", optimizer, THRESHOLDS)
    rule, names = THRESHOLDS[optimizer]
    given = {
        "momentum": momentum,
        "rho": rho,
        "grad_norm": grad_norm,
        "dual_norm": dual_norm,
    }
    for name, value in given.items():
        if name in names and value is None:
            raise ConfigError(f"the threshold of {optimizer!r} needs {name}=")
        if name not in names and value is not None:
            raise ConfigError(
                f"the threshold of {optimizer!r} has no {name}; it takes "
                f"{', '.join(names) or 'the learning rate alone'}"
            )
    return rule(learning_rate, *(given[name] for name in names))


def stability_ratio(
    curvature: jax.typing.ArrayLike,
    optimizer: str,
    learning_rate: jax.typing.ArrayLike,
    **arguments: jax.typing.ArrayLike,
) -> jax.Array:
    """curvature / threshold: 1 is the edge of stability, above it steps overshoot.

    Args:
        curvature: lambda_max of H; of P^-1 H for `adam` (`preconditioned_lambda_max`);
            `curvature_in_norm` for `sign` and `muon`.
        optimizer, learning_rate, arguments: as in `stability_threshold`.

    >>> float(stability_ratio(10.0, "gd", 0.2))
    1.0
    """
    return jnp.asarray(curvature) / stability_threshold(
        optimizer, learning_rate, **arguments
    )
