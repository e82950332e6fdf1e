"""Runs with local updates on a mesh of four devices, against simulated replicas.

python local_updates_worker.py [CASE]

Prints for each case the largest distance of the models after ten steps and the bytes of
its programs, as JSON.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

from jopt.training import presets
from jopt.training._plan import Plan, make_plan, resolve
from jopt.tree import count, named_leaves

MUON = presets.rule("layers/.*/kernel", "muon", 0.02, compute_dtype="float32")
CASES = {
    "diloco": {"mesh": {"replica": 4}, "own": {}},
    "islands": {"mesh": {"replica": 2, "data": 2}, "own": {"shard_outer": True}},
    "fsdp": {
        "mesh": {"replica": 2, "fsdp": 2},
        "own": {"name": "muloco", "replicas": 2},
        "rule": MUON,
    },
    "palsgd": {
        "mesh": {"replica": 2},
        "own": {"name": "palsgd", "probability": 0.5, "replicas": 4},
    },
    "parts": {
        "mesh": {"replica": 2},
        "own": {"compressor": "int4", "replicas": 8},
    },
    "noloco": {"mesh": {"replica": 4}, "own": {"name": "noloco"}},
    "eager": {"mesh": {"replica": 4}, "own": {"name": "eager_diloco"}},
    "streaming": {
        "mesh": {"replica": 4},
        "own": {"name": "streaming_diloco", "compressor": "int4", "delay": 1},
    },
}


def planned(case: dict, *, simulated: bool) -> Plan:
    config = presets.digits()
    config.model.update(hidden_dim=8, num_layers=2)
    config.optim.order = ("own", "all") if "rule" in case else ("all",)
    if "rule" in case:
        config.optim.rules.own = case["rule"]
    config.optim.rules.all = presets.rule(".*", "optax:sgd", 0.1, momentum=0.9)
    config.train.update(steps=10, batch_size=16, compute_dtype="float32")
    config.monitor.every_steps = 0
    replicas = case["own"].get("replicas", case["mesh"]["replica"])
    config.local_updates.update({"name": "diloco", "period": 4, **case["own"]})
    config.local_updates.replicas = replicas
    if simulated:
        config.local_updates.shard_outer = False
    else:
        config.mesh.update(case["mesh"])
    return make_plan(resolve(config))


def trained(plan: Plan) -> tuple[dict, list[dict]]:
    state = plan.init()
    for step in range(10):
        random = np.random.default_rng(step)
        batch = {
            "inputs": random.normal(size=(16, 8, 8, 1)).astype(np.float32),
            "targets": random.integers(0, 10, 16).astype(np.int32),
            "mask": np.ones(16, np.float32),
            "domain": np.zeros(16, np.int32),
        }
        state, metrics = plan.step_of(1, step)(state, plan.put(batch))
        jax.block_until_ready(state)
        plan.read(metrics)
    rows = [row._asdict() for row in plan.programs.sent()]
    return named_leaves(plan.model_of(state).params), rows


def main(names: list[str]) -> None:
    found = {}
    for name in names or CASES:
        plan = planned(CASES[name], simulated=False)
        many, sent = trained(plan)
        one, alone = trained(planned(CASES[name], simulated=True))
        found[name] = {
            "gap": max(float(np.abs(np.asarray(many[k]) - one[k]).max()) for k in one),
            "sent": sent,
            "alone": sum(row["payload_hlo"] for row in alone),
            "parameters": count(plan.params),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
