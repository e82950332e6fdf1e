"""How few stages can come as close to the polar factor as Optax's Muon does.

  python benchmarks/fewest_stages.py

For lists of two, three, ... quintic stages by the generator of Polar Express, without a
cushion, every `lower` of a grid is tried on matrices of `polar_accuracy.py`, in float64
and divided by their exact operator norm, which no normalisation can beat. Shown is the
list whose worst distance ||O - U V^T||_F / sqrt(M), as a part of 1.1 times that of
Optax's default on the same matrix, is smallest: above 1, no list of so many stages is
as close as Optax's on all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from polar_accuracy import FORMS, classes

from jopt.linalg import polar_express_coefficients, polynomial_value, reference
from jopt.reporting import markdown_table

KINDS = ("gauss 1:1", "gauss 1:4", "cond 1e2 1:1", "cond 1e4 1:1")
SLACK = 1.1


def distance(singular_values: np.ndarray) -> float:
    """||O - U V^T||_F / sqrt(M), from the singular values of O."""
    return float(np.sqrt(np.mean((singular_values - 1) ** 2)))


def optax_distances(size: int) -> dict[str, float]:
    """Of Optax's default, by kind."""
    found = {}
    for kind in KINDS:
        x = classes(size)[kind]
        apart = np.asarray(FORMS["optax, default"](x), np.float64) - reference.polar(x)
        found[kind] = float(np.linalg.norm(apart) / np.sqrt(size))
    return found


def best(
    stages: int, spectra: dict[str, np.ndarray], bounds: dict[str, float]
) -> tuple[float, float, dict[str, float]]:
    """Worst part of a bound, `lower` and distances of the best list of `stages`."""
    tried = []
    for lower in np.geomspace(1e-4, 0.3, 300):
        coeffs = polar_express_coefficients(stages, lower=float(lower), cushion=0.0)
        found = {
            kind: distance(polynomial_value(coeffs, s)) for kind, s in spectra.items()
        }
        worst = max(found[kind] / bounds[kind] for kind in bounds)
        tried.append((worst, float(lower), found))
    return min(tried, key=lambda one: one[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args(argv)
    matrices = classes(options.size)
    values = {
        kind: np.linalg.svd(matrices[kind].astype(np.float64), compute_uv=False)
        for kind in KINDS
    }
    spectra = {kind: s / s[0] for kind, s in values.items()}
    peers = optax_distances(options.size)
    bounds = {kind: SLACK * found for kind, found in peers.items()}
    rows = [["optax, default", "-", "-", *(f"{peers[kind]:.3f}" for kind in KINDS)]]
    for stages in (2, 3, 4):
        worst, lower, found = best(stages, spectra, bounds)
        distances = (f"{found[kind]:.3f}" for kind in KINDS)
        rows.append([f"{stages} stages", f"{worst:.2f}", f"{lower:.4f}", *distances])
    print(markdown_table(["list", "of 1.1 optax", "lower", *KINDS], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
