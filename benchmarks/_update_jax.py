"""jopt's and Optax's optimizers in one process, as `update` asks.

They share it because two processes of one and the same program differ by percents.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Collection
from importlib import metadata
from typing import Any

from _update_trees import shapes
from _workers import serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.linalg._products import APPLY, GRAM, SQUARE, products

RATE = 0.01


def matrices_only(params: Any) -> Any:
    """What Optax has to be told: which of these are matrices."""
    numbers = optax.contrib.MuonDimensionNumbers()
    return {path: numbers if is_matrix(path) else None for path in params}


def is_matrix(path: str) -> bool:
    return path.endswith("kernel")


def optax_muon(**options: Any) -> optax.GradientTransformation:
    return optax.contrib.muon(
        RATE, muon_weight_dimension_numbers=matrices_only, **options
    )


def jopt_muon(**options: Any) -> optax.GradientTransformation:
    def labels(params: Any) -> Any:
        return {path: "spectral" if is_matrix(path) else "fallback" for path in params}

    return jopt.muon(RATE, labels=labels, **options)


def bare_products(
    stages: int, restarts: Collection[int] = ()
) -> Callable[[jax.Array], jax.Array]:
    """The fewest bfloat16 products of so many quintic stages, and nothing beside them.

    Wide stacks on their Gram matrix, formed anew before the stages `restarts`; no norm,
    no coefficients. What comes out is no polar factor: it shows what the time cannot
    fall below.
    """

    product = products(jnp.bfloat16, result=jnp.bfloat16)

    def engine(x_SMN: jax.Array) -> jax.Array:
        wide = x_SMN.shape[2] >= 2 * x_SMN.shape[1]
        x_SMN = x_SMN.astype(jnp.bfloat16)
        gram_SMM = product(GRAM, x_SMN, x_SMN)
        factor_SMM = square_SMM = product(SQUARE, gram_SMM, gram_SMM)
        for stage in range(1, stages):
            if wide and stage not in restarts:
                half_SMM = product(SQUARE, square_SMM, gram_SMM)
                gram_SMM = product(SQUARE, half_SMM, square_SMM)
                square_SMM = product(SQUARE, gram_SMM, gram_SMM)
                factor_SMM = product(SQUARE, factor_SMM, square_SMM)
            else:
                x_SMN = product(APPLY, factor_SMM, x_SMN)
                gram_SMM = product(GRAM, x_SMN, x_SMN)
                factor_SMM = square_SMM = product(SQUARE, gram_SMM, gram_SMM)
        return product(APPLY, factor_SMM, x_SMN).astype(jnp.float32)

    return engine


FORMS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax muon": optax_muon,
    "optax muon, dion": lambda: optax_muon(ns_coeffs="dion"),
    "optax adamw": lambda: optax.adamw(RATE),
    "jopt muon": jopt_muon,
    "jopt muon, fast3": lambda: jopt_muon(coeffs="polar_express_fast3"),
    "jopt muon, float32": lambda: jopt_muon(compute_dtype="float32"),
    "jopt muon, fast3, float32": lambda: jopt_muon(
        coeffs="polar_express_fast3", compute_dtype="float32"
    ),
    "jopt muon, you5": lambda: jopt_muon(coeffs="you5"),
    "jopt muon, you5, float32": lambda: jopt_muon(
        coeffs="you5", compute_dtype="float32"
    ),
    # What Muon cannot fall below: its momentum, scale and AdamW without any polar
    # factor, and with the bare products of so many stages.
    "no polar factor": lambda: jopt_muon(method=lambda x_SMN: x_SMN),
    "bare, 2 stages": lambda: jopt_muon(method=bare_products(2)),
    "bare, 3 stages": lambda: jopt_muon(method=bare_products(3)),
    "bare, 4 stages": lambda: jopt_muon(method=bare_products(4)),
    # With as many restarts as the default needs (`gram_restarts.py`), and one less.
    "bare, 4 stages, restart": lambda: jopt_muon(method=bare_products(4, (2,))),
    "bare, 4 stages, 2 restarts": lambda: jopt_muon(method=bare_products(4, (1, 2))),
}


class JaxSide:
    """What `update` calls."""

    def __init__(self) -> None:
        self._steps: dict[str, Callable[[], None]] = {}

    def versions(self) -> dict[str, str]:
        names = ("jax", "jaxlib", "optax")
        found = {name: metadata.version(name) for name in names}
        return {"python": platform.python_version(), **found}

    def forms(self) -> list[str]:
        return list(FORMS)

    def build(self, tree: str, form: str) -> dict[str, float]:
        """Compiles one form; seconds of compilation and bytes of temporary memory."""
        params, grads = random_tree(tree, 0), random_tree(tree, 1)
        tx = FORMS[form]()

        def update(state: Any, grads: Any) -> Any:
            params, opt_state = state
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        state = params, jax.jit(tx.init)(params)
        begin = time.perf_counter()
        compiled = jax.jit(update, donate_argnums=0).lower(state, grads).compile()
        secs = time.perf_counter() - begin
        memory = compiled.memory_analysis()

        def step() -> None:
            nonlocal state
            state = compiled(state, grads)
            jax.block_until_ready(state)

        self._steps[form] = step
        step()
        return {"compile_secs": secs, "temp_bytes": memory.temp_size_in_bytes}

    def time(self, form: str) -> dict[str, float]:
        """Wall and processor seconds of one update."""
        cpu, wall = time.process_time(), time.perf_counter()
        self._steps[form]()
        return {
            "secs": time.perf_counter() - wall,
            "cpu_secs": time.process_time() - cpu,
        }


def random_tree(tree: str, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(0.02 * rng.standard_normal(shape), jnp.float32)
        for path, shape in shapes(tree).items()
    }


if __name__ == "__main__":
    serve(JaxSide())
