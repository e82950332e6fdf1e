"""Random matrices with a wanted property."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from jopt.linalg import reference


def _draw(
    *shape: int,
    condition: float | None = None,
    rank: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> np.ndarray:
    """Gaussian (..., M, N), with singular values logspace(1, 1/condition) or a rank."""
    rng = np.random.default_rng(seed)

    def gaussian(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if "complex" in dtype else x

    x = gaussian(*shape)
    if rank is not None:
        x = gaussian(*shape[:-1], rank) @ gaussian(*shape[:-2], rank, shape[-1])
    if condition is not None:
        s = np.geomspace(1, 1 / condition, min(shape[-2:]))
        x = reference.singular_value_map(x, lambda _: s)
    return x.astype(dtype)


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    return _draw
