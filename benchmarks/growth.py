"""How the cost of Muon's orthogonalisation grows: with width, depth and devices.

  python benchmarks/growth.py
  python benchmarks/growth.py --widths=128,256,512 --rounds=3

Width and depth are times of the jitted transformation without momentum, jopt's and
Optax's default in turns, medians of the rounds. Devices are what the compiled program
says of one of them: floating-point operations and bytes that it receives. They are
counted and not timed, since simulated devices share the cores of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _turns import in_turns, spent

COUNTER = """
import json, sys
import jax, jopt
from jax.sharding import NamedSharding, PartitionSpec
from jopt.parallel import make_mesh

sys.path.insert(0, sys.argv[1])
import collectives

devices, layers, width = map(int, sys.argv[2:])
where = NamedSharding(make_mesh(fsdp=devices), PartitionSpec("fsdp"))
shapes = {
    f"w{i}": jax.ShapeDtypeStruct((width, width), "float32", sharding=where)
    for i in range(layers)
}
make = collectives.transformations()["stack"]
program = collectives.compiled(make, shapes)
sizes = [c.size for c in jopt.parallel.collectives(program)]
print(json.dumps([program.cost_analysis()["flops"], len(sizes), sum(sizes)]))
"""


def updates(shape: tuple[int, int], count: int) -> list[Callable[[], Any]]:
    """jopt's and Optax's transformation of so many matrices, ready to be timed."""
    import jax
    import optax

    import jopt

    grads = {f"w{i}": jax.random.normal(jax.random.key(i), shape) for i in range(count)}
    sides = []
    for tx in (
        jopt.scale_by_orthogonalization(beta=0.0, nesterov=False),
        optax.contrib.scale_by_muon(
            beta=0.0,
            nesterov=False,
            weight_dimension_numbers=dict.fromkeys(
                grads, optax.contrib.MuonDimensionNumbers()
            ),
        ),
    ):
        state = tx.init(grads)
        step = jax.jit(lambda g, s, tx=tx: tx.update(g, s)[0])
        sides.append(lambda step=step, s=state: jax.block_until_ready(step(grads, s)))
    return sides


def timed(name: str, shape: tuple[int, int], count: int, rounds: int) -> list[str]:
    """A row: name, both times in ms, their ratio."""
    timings = in_turns(updates(shape, count), rounds, spent)
    own, peer = (statistics.median(timing.wall) for timing in timings.values())
    return [name, f"{1e3 * own:.1f}", f"{1e3 * peer:.1f}", f"{own / peer:.2f}"]


def counted(devices: int, layers: int, width: int) -> list[str]:
    """A row: devices, GFLOP, collectives and MB of one device."""
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
    }
    folder = Path(__file__).parent
    arguments = [str(value) for value in (folder, devices, layers, width)]
    done = subprocess.run(
        [sys.executable, "-c", COUNTER, *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    flops, count, size = json.loads(done.stdout)
    return [str(devices), f"{flops / 1e9:.2f}", str(count), f"{size / 1e6:.2f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints three tables; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="128,256,512,1024,2048")
    parser.add_argument("--depths", default="1,2,4,8,16,32")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    from jopt.reporting import markdown_table

    head = ["jopt, ms", "optax, ms", "jopt / optax"]
    widths = [int(width) for width in options.widths.split(",")]
    rows = [
        timed(f"{n} x {aspect * n}", (n, aspect * n), 1, options.rounds)
        for aspect in (1, 4)
        for n in widths
    ]
    print(markdown_table(["one matrix", *head], rows))
    rows = [
        timed(depth, (256, 256), int(depth), options.rounds)
        for depth in options.depths.split(",")
    ]
    print("\n" + markdown_table(["matrices of 256 x 256", *head], rows))
    rows = [counted(int(n), 16, 256) for n in options.devices.split(",")]
    names = ["devices", "GFLOP of one", "collectives", "MB it receives"]
    print("\n16 matrices of 256 x 256, float32\n")
    print(markdown_table(names, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
