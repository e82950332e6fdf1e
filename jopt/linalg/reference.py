"""Slow exact answers in float64 on the host, to test the fast ones against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def singular_value_map(
    x: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """U diag(fn(s)) V^H for each trailing matrix U diag(s) V^H of `x`.

    >>> singular_value_map(np.diag([3.0, 1.0]), np.sqrt).round(4).tolist()
    [[1.7321, 0.0], [0.0, 1.0]]
    """
    wide = np.promote_types(x.dtype, np.float64)
    u, s, vh = np.linalg.svd(np.asarray(x, dtype=wide), full_matrices=False)
    return (u * fn(s)[..., None, :]) @ vh


def polar(x: np.ndarray) -> np.ndarray:
    """U V^H over the singular values above s_1 max(M, N) eps; zero for a zero matrix.

    The eps is that of the dtype of `x`, not of float64.

    >>> polar(np.array([[0.0, 3.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    x = np.asarray(x)
    if x.size == 0:
        return x
    eps = np.finfo(x.dtype).eps
    cut = max(x.shape[-2:]) * eps

    def indicator(s: np.ndarray) -> np.ndarray:
        return ((s > cut * s.max(axis=-1, keepdims=True)) & (s > 0)).astype(float)

    return singular_value_map(x, indicator)
