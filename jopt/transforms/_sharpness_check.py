"""What is said of second gradients outside of jit, where one can warn and raise."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from jopt.errors import JoptWarning

Fallback = Literal["clean", "raise", "pass"]
LEAST_RATIO = 0.5


def check_sharpness(
    metrics: Mapping[str, Any], *, fallback: Fallback = "clean", prefix: str = ""
) -> None:
    """What can be said of a step outside of jit: called with its metrics, on the host.

    Args:
        metrics: of `SharpnessState`, as numbers.
        fallback: of the member.
        prefix: of the names in `metrics`.

    Fails: `FloatingPointError` with `fallback="raise"` if a second gradient was not
    finite.
    Warns: `JoptWarning`, once, if less than half of a perturbation reached the weights.

    >>> check_sharpness({"perturbation_ratio": 1.0, "fallbacks": 2.0})
    >>> check_sharpness({"fallbacks": 2.0}, fallback="raise")
    Traceback (most recent call last):
        ...
    FloatingPointError: 2 gradients at perturbed parameters were not finite; lower \
rho, or use fallback="clean", which takes the clean gradient at such steps
    """
    if fallback == "raise":
        raise_fallbacks(int(metrics.get(f"{prefix}fallbacks", 0)))
    if float(metrics.get(f"{prefix}perturbation_ratio", 1.0)) < LEAST_RATIO:
        warnings.warn(
            "less than half of the perturbation reached the weights: w + epsilon is "
            "rounded back to w in its dtype, and the gradient is that of the base "
            "optimizer; use perturb_dtype=float32 (see perturbation_ratio)",
            JoptWarning,
            stacklevel=2,
        )


def raise_fallbacks(fallbacks: int) -> None:
    """Fails with `FloatingPointError` unless there were none.

    >>> raise_fallbacks(0)
    """
    if fallbacks:
        some = "gradient" if fallbacks == 1 else "gradients"
        raise FloatingPointError(
            f"{fallbacks} {some} at perturbed parameters were not finite; lower rho, "
            'or use fallback="clean", which takes the clean gradient at such steps'
        )
