"""Grams and half differences on meshes of 1 and 2 devices, beside NumPy.

Prints JSON: DEVICESxMICROBATCHES -> largest relative gap of each quantity.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np

from jopt.models import mlp
from jopt.objectives import classification
from jopt.parallel import batch_sharding, make_mesh, put_batch, shard_parameters
from jopt.training._grams import choose_grams
from jopt.training._oracles import value_and_grad
from jopt.tree import named_leaves

ROWS = 8
MODEL = mlp({"input_dim": 6, "hidden_dim": 8, "num_layers": 1})


def main() -> None:
    inputs = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    batch = {
        "inputs": inputs,
        "targets": np.arange(ROWS, dtype=np.int32) % 10,
        "mask": np.ones(ROWS, np.float32),
    }
    params, state = MODEL.init(jax.random.key(0), batch)
    grams = choose_grams(MODEL, batch, MODEL.taps)
    _, _, taps = MODEL.apply(
        params, state, batch, key=None, train=False, taps=grams.taps
    )
    exact = {}
    for path, (tap, _, fan_in) in grams.weights.items():
        rows = np.asarray(taps[tap], np.float64).reshape(-1, fan_in)
        exact[path] = rows.T @ rows / len(rows)

    gradient = jax.jit(jax.grad(classification(MODEL), has_aux=True))

    def half(keep: np.ndarray) -> dict[str, jax.Array]:
        part = {name: rows[keep] for name, rows in batch.items()}
        return named_leaves(gradient(params, state, part, jax.random.key(0))[0])

    found = {}
    for devices, counts in ((1, (1,)), (2, (1, 4))):
        mesh = make_mesh(data=devices)
        placed = jax.device_put(params, shard_parameters(params, mesh))
        rows = put_batch(batch, batch_sharding(mesh))
        for count in counts:
            oracle = value_and_grad(
                classification(MODEL, taps=grams.taps),
                accumulation=count,
                half_difference=True,
                grams=grams,
            )

            def run(params, rows, oracle=oracle):
                out, _ = oracle.apply({}, params, state, rows, jax.random.key(0))
                return out.activation_grams, out.half_difference

            got, difference = jax.block_until_ready(jax.jit(run)(placed, rows))
            first = np.arange(ROWS) % max(count, 2) < max(count, 2) // 2
            a, b = half(first), half(~first)
            found[f"{devices}x{count}"] = {
                "gram": max(gap(got[path], exact[path]) for path in exact),
                "half difference": max(
                    gap(x, (np.asarray(a[path]) - np.asarray(b[path])) / 2)
                    for path, x in named_leaves(difference).items()
                ),
            }
    print(json.dumps(found))


def gap(found: jax.Array, expected: np.ndarray) -> float:
    assert jnp.isfinite(found).all()
    # Of a head that starts at zero, everything behind it has no gradient.
    scale = np.abs(expected).max() or 1.0
    return float(np.abs(np.asarray(found) - expected).max() / scale)


if __name__ == "__main__":
    main()
