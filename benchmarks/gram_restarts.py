"""Where the Gram iteration has to restart in bfloat16: the largest singular value.

  python benchmarks/gram_restarts.py

The four stages of the default list on wide matrices, all in bfloat16, with every set of
at most two restarts. A restart forms the Gram matrix anew; before it, what rounding did
to small eigenvalues is multiplied by each stage. Shown is the largest singular value
over `--seeds` matrices of a kind; exact arithmetic gives at most 1.09, and above 1.3 an
update is no longer bounded as a spectral step should be:

  gauss     independent normal entries
  spiked    the same with one singular value ten times the largest of the others' mean
  flat      one singular value 1, all others 0.1
  cond      singular values evenly on a logarithmic scale, the smallest 10^-k, k in
            0.5 ... 4
  power     the k-th singular value is 1 / k
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from _options import at_least_one

from jopt.linalg import PRESETS, gram_newton_schulz
from jopt.reporting import markdown_table

LIST = PRESETS["polar_express_fast4"]
KINDS = ("gauss", "spiked", "flat", "cond", "power")
SHAPES = ((16, 48), (32, 128), (64, 256), (128, 512), (256, 1024))
RESTARTS = tuple(
    places
    for count in (0, 1, 2)
    for places in itertools.combinations(range(1, LIST.steps), count)
)


def matrix(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """One of a kind, float64."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    noise = rng.standard_normal(shape)
    if kind == "gauss":
        return noise
    if kind == "spiked":
        left, right = (rng.standard_normal(n) for n in shape)
        spike = np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
        return noise / np.sqrt(columns) + 10 * spike
    values = {
        "flat": np.where(np.arange(rows) == 0, 1.0, 0.1),
        "cond": np.logspace(0, -rng.uniform(0.5, 4), rows),
        "power": 1 / np.arange(1, rows + 1),
    }[kind]
    u, v = (np.linalg.qr(rng.standard_normal((n, rows)))[0] for n in (rows, columns))
    return (u * values) @ v.T


def largest(x_SMN: np.ndarray, restarts: tuple[int, ...]) -> float:
    """The largest singular value of all results; infinite where one is not finite."""
    result = gram_newton_schulz(
        jnp.asarray(x_SMN, jnp.float32),
        LIST.stages,
        restarts=restarts,
        margin=LIST.margin,
        normalization=LIST.normalization,
        compute_dtype=jnp.bfloat16,
        gram_dtype=jnp.bfloat16,
    )
    found = np.asarray(result, np.float64)
    if not np.isfinite(found).all():
        return np.inf
    return float(np.linalg.svd(found, compute_uv=False).max())


def table(shapes: Sequence[tuple[int, int]], seeds: int) -> list[list[str]]:
    """A row for each set of restarts, the worst over `shapes` in each column."""
    found = {
        (kind, shape): np.stack([matrix(kind, shape, seed) for seed in range(seeds)])
        for kind in KINDS
        for shape in shapes
    }
    rows = []
    for restarts in RESTARTS:
        worst = {
            kind: max(largest(found[kind, shape], restarts) for shape in shapes)
            for kind in KINDS
        }
        name = ", ".join(map(str, restarts)) or "none"
        rows.append([name, *(f"{worst[kind]:.2f}" for kind in KINDS)])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least_one, default=20)
    options = parser.parse_args(argv)
    print(markdown_table(["restart before", *KINDS], table(SHAPES, options.seeds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
