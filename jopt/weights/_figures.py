"""What is measured of task vectors while they pass by, leaf by leaf."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jopt.merging import diagnose

_BLOCK = 1 << 20  # entries of a task that are widened at a time

# T tasks.


class Figures:
    """Norms, cosines and zeros of T task vectors and of the merged one.

    Sums are in float64, whose range holds the squares of all float32 numbers.
    """

    def __init__(self, tasks: int) -> None:
        self._gram_TT = np.zeros((tasks, tasks))
        self._zeros_T = np.zeros(tasks, np.int64)
        self._merged_square = 0.0
        self._merged_zeros = 0
        self.entries = 0

    def add(self, vectors: np.ndarray, merged: np.ndarray) -> None:
        """One leaf: task vectors (T, ...) and the merged one (...)."""
        flat_TP, one_P = vectors.reshape(len(vectors), -1), merged.reshape(-1)
        for start in range(0, one_P.size, _BLOCK):
            block_TB = _wide(flat_TP[:, start : start + _BLOCK])
            self._gram_TT += np.real(block_TB @ block_TB.conj().T)
            self._zeros_T += np.count_nonzero(block_TB == 0, axis=1)
            block_B = _wide(one_P[start : start + _BLOCK])
            self._merged_square += float(np.real(np.vdot(block_B, block_B)))
            self._merged_zeros += int(np.count_nonzero(block_B == 0))
        self.entries += one_P.size

    @property
    def norms(self) -> list[float]:
        """The l2 norm of each task vector, (T,)."""
        return np.sqrt(np.diag(self._gram_TT)).tolist()

    @property
    def cosines(self) -> list[list[float]]:
        """Cosines of all pairs, (T, T); 0 where one of the two is zero."""
        norms_T = np.sqrt(np.diag(self._gram_TT))
        sizes_T = np.where(norms_T > 0, norms_T, 1.0)
        cosines_TT = self._gram_TT / sizes_T[:, None] / sizes_T
        return np.clip(cosines_TT, -1, 1).tolist()

    def findings(self, names: Sequence[str]) -> tuple[str, ...]:
        """What `diagnose` says, which looks at nothing but norms and cosines."""
        values_T, vectors_TT = np.linalg.eigh(np.asarray(self.cosines))
        # Rows whose products are the cosines, at their norms.
        rows_TT = vectors_TT * np.sqrt(np.maximum(values_T, 0))
        alike = {"": jnp.asarray(rows_TT * np.asarray(self.norms)[:, None])}
        return diagnose(alike, names=names).findings

    @property
    def sparsity(self) -> list[float]:
        """The part of each task vector that is exactly zero, (T,)."""
        return (self._zeros_T / max(self.entries, 1)).tolist()

    @property
    def merged_norm(self) -> float:
        """The l2 norm of the merged vector, before its scale."""
        return float(np.sqrt(self._merged_square))

    @property
    def merged_sparsity(self) -> float:
        """The part of the merged vector that is exactly zero."""
        return self._merged_zeros / max(self.entries, 1)


def _wide(block: np.ndarray) -> np.ndarray:
    return block.astype(np.result_type(block.dtype, np.float64))
