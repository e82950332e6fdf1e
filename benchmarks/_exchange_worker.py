"""One of two hosts that average N float32 parameters every H steps; prints JSON.

python _exchange_worker.py INTERFACE N STEPS H,... --coordinator= --num_processes= \
--process_id=

A step is some compute on this host's own copy; a synchronisation is the mean over the
hosts, the traffic of local SGD, with H = 1 that of synchronous data parallelism.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _hosts import bytes_sent


def sent(interface: str) -> int:
    """Bytes that interfaces of this name (or beginning) have sent so far."""
    return bytes_sent(Path("/proc/net/dev").read_text(), interface)


def main(argv: list[str]) -> None:
    interface, size, steps, periods, *joining = argv
    from jopt.parallel import start_processes

    flags = dict(word.lstrip("-").split("=") for word in joining)
    start_processes(
        flags["coordinator"], int(flags["num_processes"]), int(flags["process_id"])
    )
    found = measure(
        interface, int(size), int(steps), [int(h) for h in periods.split(",")]
    )
    print("FOUND", json.dumps(found), flush=True)


def measure(
    interface: str, size: int, steps: int, periods: list[int]
) -> dict[str, Any]:
    """Bytes and seconds of each period, of compute alone and of one number's mean."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from jopt.parallel import barrier, cross_replica_bytes, make_mesh

    mesh = make_mesh(replica=jax.process_count())
    where = NamedSharding(mesh, PartitionSpec("replica"))

    def mean(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x.mean(0, keepdims=True), x.shape)

    def compute(x: jax.Array) -> jax.Array:
        return x + 1e-3 * jnp.tanh(x)

    def program(f: Callable[..., Any], width: int) -> jax.stages.Compiled:
        shape = jax.ShapeDtypeStruct((mesh.size, width), jnp.float32, sharding=where)
        return (
            jax.jit(f, in_shardings=where, out_shardings=where).lower(shape).compile()
        )

    def full(width: int) -> jax.Array:
        mine = jnp.full((1, width), float(jax.process_index()))
        return jax.make_array_from_process_local_data(where, mine, (mesh.size, width))

    def seconds(call: Callable[[int], Any], count: int) -> float:
        begin = time.perf_counter()
        for number in range(count):
            call(number)
        return (time.perf_counter() - begin) / count

    sync, local, small = program(mean, size), program(compute, size), program(mean, 1)
    state, one = full(size), full(1)
    for warm in (sync, local):
        state = jax.block_until_ready(warm(state))
    jax.block_until_ready(small(one))
    barrier("compiled")
    pings = [seconds(lambda _: jax.block_until_ready(small(one)), 1) for _ in range(9)]
    found: dict[str, Any] = {
        "payload_hlo": cross_replica_bytes(sync, mesh),
        "latency_secs": statistics.median(pings),
        "compute_secs": seconds(lambda _: jax.block_until_ready(local(state)), steps),
        "periods": {},
    }
    for period in periods:

        def step(number: int, period: int = period) -> None:
            nonlocal state
            state = jax.block_until_ready(local(state))
            if (number + 1) % period == 0:
                state = jax.block_until_ready(sync(state))

        barrier("a period begins")
        before = sent(interface)
        secs = seconds(step, steps)
        barrier("a period has ended")
        found["periods"][period] = [(sent(interface) - before) / steps, secs]
    # Every host holds the mean, or nothing was exchanged.
    found["value"] = float(state.addressable_shards[0].data[0, 0])
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
