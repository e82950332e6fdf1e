"""What a sharded update of Muon sends between devices: jopt beside Optax.

  python benchmarks/collectives.py
  python benchmarks/collectives.py --devices=4 --leaves=5 --rows=64 --columns=64

Compiles the update of so many equal matrices, cut along `--axis` over simulated
devices, and counts the collectives of the program: how many, and the bytes of their
results on one device. Nothing is run: devices that share two cores have no speed that
is worth measuring. The last column divides the bytes by those of the ideal, in which
every device receives the matrices that it works on, in float32 or in the dtype of their
products, and sends them back: two times the matrices divided by the devices.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    import optax


def transformations() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """By name: a function of the parameters' shardings."""
    import optax

    import jopt

    def peer(**options: str) -> Callable[..., optax.GradientTransformation]:
        view = optax.contrib.MuonDimensionNumbers()
        return lambda shapes: optax.contrib.muon(
            1.0, muon_weight_dimension_numbers=dict.fromkeys(shapes, view), **options
        )

    def own(**options: str) -> Callable[..., optax.GradientTransformation]:
        return lambda shapes: jopt.scale_by_orthogonalization(
            shardings=shapes, **options
        )

    single, half = {"compute_dtype": "float32"}, {"compute_dtype": "bfloat16"}
    return {
        "optax": peer(),
        "optax, dion": peer(ns_coeffs="dion"),
        "jopt, shardings unknown": lambda shapes: jopt.scale_by_orthogonalization(
            compute_dtype="float32"
        ),
        "stack": own(**single),
        "stack, bfloat16": own(**half),
        "gram": own(distribute="gram", **single),
        "replicate": own(distribute="replicate", **single),
    }


def compiled(
    make: Callable[..., optax.GradientTransformation],
    shapes: dict[str, jax.ShapeDtypeStruct],
) -> jax.stages.Compiled:
    """The program of one update, in which everything lies where `shapes` says."""
    import jax

    tx = make(shapes)
    state = jax.eval_shape(tx.init, shapes)
    first = next(iter(shapes.values()))
    alone = jax.sharding.NamedSharding(
        first.sharding.mesh, jax.sharding.PartitionSpec()
    )
    grads, places = jax.tree.map(
        lambda leaf: first.sharding if leaf.shape == first.shape else alone,
        (shapes, state),
    )
    step = jax.jit(
        tx.update, in_shardings=(grads, places, grads), out_shardings=(grads, places)
    )
    return step.lower(shapes, state, shapes).compile()


def row(name: str, program: jax.stages.Compiled, ideal: float) -> list[str]:
    """Kinds and how many, bytes, bytes over the ideal."""
    from jopt.parallel import collectives

    sent = collectives(program)
    kinds = Counter(
        f"{c.kind}{' in a loop' if c.in_loop else ''}" for c in sent if c.size > 1024
    )
    small = sum(c.size <= 1024 for c in sent)
    listed = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    size = sum(c.size for c in sent)
    if small:
        listed.append(f"{small} below 1 kB")
    return [
        name,
        ", ".join(listed) or "none",
        f"{size / 1e6:.2f}",
        f"{size / ideal:.2f}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one table for each number of leaves; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--leaves", default="3,8,11,16")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--axis", type=int, choices=(0, 1), default=0)
    options = parser.parse_args(argv)
    shape = options.rows, options.columns
    if shape[options.axis] % options.devices:
        parser.error(f"{shape[options.axis]} is no multiple of {options.devices}")
    # JAX reads it when it starts.
    os.environ["JAX_NUM_CPU_DEVICES"] = str(options.devices)
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from jopt.parallel import make_mesh
    from jopt.reporting import markdown_table

    mesh = make_mesh(fsdp=options.devices)
    spec = jax.sharding.PartitionSpec(*[None] * options.axis, "fsdp")
    where = jax.sharding.NamedSharding(mesh, spec)
    for leaves in map(int, options.leaves.split(",")):
        shapes = {
            f"w{i}": jax.ShapeDtypeStruct(shape, "float32", sharding=where)
            for i in range(leaves)
        }
        single = 2 * leaves * options.rows * options.columns * 4 / options.devices
        table = [
            row(name, compiled(make, shapes), single / (2 if "bfloat16" in name else 1))
            for name, make in transformations().items()
        ]
        print(f"\n{leaves} matrices of {shape}, {options.devices} devices\n")
        print(markdown_table(["update", "collectives", "MB", "of the ideal"], table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
