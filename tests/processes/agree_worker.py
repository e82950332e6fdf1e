"""What the processes of a job agree on; each prints one JSON object."""

import json
import sys

import jax
import numpy as np

from jopt.errors import ConfigError
from jopt.parallel import (
    barrier,
    batch_sharding,
    decided_by_first,
    in_any_process,
    is_first,
    make_mesh,
    put_batch,
    row_share,
    settle,
    start_processes,
    together,
    whole,
)


def rows_of(mesh, rows=16):
    """The rows that this process would load, and whether they come back as a batch."""
    index, count = row_share(mesh)
    table = np.arange(rows, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    share = rows // count
    mine = {"inputs": table[index * share : (index + 1) * share]}
    batch = put_batch(mine, batch_sharding(mesh))["inputs"]
    again = whole({"x": batch})["x"]
    return {"share": [index, count], "same": bool(np.array_equal(again, table))}


def owners(mesh):
    """The process of each device, along the axes that are not 1."""
    ids = np.vectorize(lambda device: device.process_index)(mesh.devices)
    return np.squeeze(ids).tolist()


def fails(call):
    try:
        call()
    except ConfigError as error:
        return str(error)


def refuse():
    raise ConfigError("no such folder")


def main(argv):
    flags = dict(word.lstrip("-").split("=") for word in argv)
    count, me = int(flags["num_processes"]), int(flags["process_id"])
    assert start_processes(flags["coordinator"], count, me, timeout_secs=60)
    local = jax.local_device_count()
    total = together(jax.jit(lambda x: x.sum()))
    mesh = make_mesh(replica=count, data=local)
    batch = put_batch({"x": np.ones((local, 2), np.float32)}, batch_sharding(mesh))["x"]
    first, second = total(batch), total(batch)
    settle(second)
    hybrid = make_mesh(data=local, fsdp=count, slow={"fsdp": count})
    found = {
        "first": is_first(),
        "decided": decided_by_first(lambda: {"from": me}),
        "any": [in_any_process(me == 1), in_any_process(False)],
        "sums": [float(first), float(second)],
        "replica": owners(mesh),
        "data": owners(make_mesh(data=-1)),
        "hybrid": owners(hybrid),
        "rows": rows_of(mesh),
        "tensor": rows_of(make_mesh(tensor=count * local)),
        "refused": fails(lambda: decided_by_first(refuse)),
        "scattered": fails(lambda: row_share(hybrid)),
        "idle": fails(lambda: make_mesh(data=1)),
        "slow": fails(lambda: make_mesh(data=local * count, slow={"data": local})),
    }
    barrier("done")
    print("FOUND", json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
