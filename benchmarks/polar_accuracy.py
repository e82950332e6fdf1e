"""How far Muon's update is from the polar factor: jopt's lists beside Optax's.

  python benchmarks/polar_accuracy.py
  python benchmarks/polar_accuracy.py --size=768

For matrices of several kinds, the distance ||O - U V^T||_F / sqrt(M) to the polar
factor in float64, and after the stroke the largest singular value of O:

  gauss     independent normal entries
  cond 1e2  singular values from 1 to 1e-2, evenly on a logarithmic scale; 1e4, 1e6 too
  power     the k-th singular value is 1 / k
  low rank  an eighth of the singular values 1, the others 1e-6
  spiked    one singular value ten times as large as those of a Gaussian matrix

as square matrices (1:1) and as ones four times as wide (1:4).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.linalg import reference
from jopt.reporting import markdown_table

Form = Callable[[jax.Array], jax.Array]


def optax_form(**options: Any) -> Form:
    """What `optax.contrib.muon` makes of one gradient, without momentum and scale."""
    tx = optax.contrib.muon(
        1.0,
        beta=0.0,
        nesterov=False,
        muon_weight_dimension_numbers={"w": optax.contrib.MuonDimensionNumbers()},
        consistent_rms=None,
        **options,
    )

    def form(x_MN: jax.Array) -> jax.Array:
        params = {"w": x_MN}
        update = tx.update(params, tx.init(params), params)[0]["w"]
        # Undone: its factor sqrt(max(1, columns / rows)).
        rows, columns = x_MN.shape
        return -update / max(1.0, columns / rows) ** 0.5

    return form


def jopt_form(**options: Any) -> Form:
    return lambda x_MN: jopt.orthogonalize(x_MN, **options)


FORMS: dict[str, Form] = {
    "optax, default": optax_form(),
    "optax, dion": optax_form(ns_coeffs="dion"),
    "auto": jopt_form(compute_dtype="bfloat16"),
    "auto, float32": jopt_form(compute_dtype="float32"),
    "fast3": jopt_form(coeffs="polar_express_fast3", compute_dtype="bfloat16"),
    "fast3, float32": jopt_form(coeffs="polar_express_fast3", compute_dtype="float32"),
    "auto, newton_schulz": jopt_form(method="newton_schulz", compute_dtype="bfloat16"),
    "jordan": jopt_form(coeffs="jordan", compute_dtype="bfloat16"),
    "you5": jopt_form(coeffs="you5", compute_dtype="bfloat16"),
    "you5, schatten8, float32": jopt_form(
        coeffs="you5", normalization="schatten8", compute_dtype="float32"
    ),
    "polar_express_fast5, schatten8": jopt_form(
        coeffs="polar_express_fast5",
        normalization="schatten8",
        compute_dtype="bfloat16",
    ),
    "polar_express, float32": jopt_form(
        coeffs="polar_express", compute_dtype="float32"
    ),
    "hybrid10, float32": jopt_form(coeffs="hybrid10", compute_dtype="float32"),
}


def spectra(size: int) -> dict[str, np.ndarray]:
    """Singular values by kind."""
    found = {f"cond 1e{k}": np.logspace(0, -k, size) for k in (2, 4, 6)}
    found["power"] = 1 / np.arange(1, size + 1)
    found["low rank"] = np.where(np.arange(size) < size // 8, 1.0, 1e-6)
    return found


def classes(size: int) -> dict[str, np.ndarray]:
    """Matrices by kind and shape, float32."""
    rng = np.random.default_rng(0)
    found = {}
    for aspect in (1, 4):
        shape = size, aspect * size
        found[f"gauss 1:{aspect}"] = rng.standard_normal(shape)
        u, v = (rng.standard_normal(n) for n in shape)
        spike = np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
        noise = rng.standard_normal(shape) / np.sqrt(shape[1])
        found[f"spiked 1:{aspect}"] = noise + 10 * spike
        for kind, s in spectra(size).items():
            x = rng.standard_normal(shape)
            found[f"{kind} 1:{aspect}"] = reference.singular_value_map(
                x, lambda _, s=s: s
            )
    return {name: x.astype(np.float32) for name, x in found.items()}


def cell(form: Form, x: np.ndarray) -> str:
    """Distance and largest singular value."""
    found = np.asarray(form(jnp.asarray(x)), np.float64)
    distance = np.linalg.norm(found - reference.polar(x)) / np.sqrt(min(x.shape))
    return f"{distance:.3f} / {np.linalg.norm(found, 2):.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args(argv)
    if options.size < 8:
        parser.error(f"--size is {options.size}; expected 8 or more")
    matrices = classes(options.size)
    programs = {name: jax.jit(form) for name, form in FORMS.items()}
    table = [
        [kind, *(cell(program, x) for program in programs.values())]
        for kind, x in matrices.items()
    ]
    print(markdown_table(["matrix", *FORMS], table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
