"""The methods of `python -m jopt network`, as a config sets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.parallel import Sends, batch_sharding, cross_replica_bytes
from jopt.training._config import default_config
from jopt.training._forecast import Case
from jopt.training._local_updates import filled, made
from jopt.training._plan import Plan, make_plan, resolve
from jopt.transforms import LocalUpdates
from jopt.tree import PyTree

# The bytes of a parameter that replicas send each other where nothing codes them.
_PLAIN = 4


def published(method: str, period: int) -> Case:
    """A method without a config."""
    return Case(method, period, period)


def case_of(
    config: ConfigDict,
    params: PyTree,
    method: str,
    period: int,
    *,
    bytes_per_param: float,
) -> Case:
    """A method as a run of a config would have it: its parts and its compressor.

    Args:
        config: as it was loaded. A method that is not its own has the defaults of
            `local_updates`.
        params: shapes of one model.
        bytes_per_param: of what is not coded.

    Fails: `ConfigError` for settings that cannot be.
    """
    if method == "ddp":
        return published(method, 1)
    own = filled(with_method(config, method, period))
    if method == "palsgd":
        own.probability = 0.0  # a pull sends nothing
    local = made(
        own,
        optax.identity(),
        1.0,
        steps=config.train.steps,
        seed=0,
        num_replicas=1,
        mode="shard_map",
    )
    rounds = local.settings.rounds
    width = bytes_per_param if own.compressor == "none" else _PLAIN
    sends = _sends(local, params, width / _PLAIN)
    return Case(method, period, rounds.effective_period, rounds.fragments, sends)


def _sends(local: LocalUpdates, params: PyTree, share: float) -> Callable[[int], Sends]:
    """What so many replicas send, each at a site of its own."""
    anchor = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)

    def sends(sites: int) -> Sends:
        exchanged = local.settings.exchange.sends(anchor, sites, sites)
        return tuple((kind, share * size) for kind, size in exchanged)

    return sends


def with_method(config: ConfigDict, method: str, period: int) -> ConfigDict:
    """A config with this method and period, and one replica at each site."""
    config = config.copy_and_resolve_references()
    if config.local_updates.name != method:
        config.local_updates = default_config().local_updates
        config.local_updates.name = method
        if method == "post_local_sgd":
            config.local_updates.warmup_steps = 1  # it needs some
    config.local_updates.update(period=period, replicas=None)
    config.data.domain_shards = 1  # the data makes no difference
    return config


def counted(config: ConfigDict, cases: Sequence[Case], sites: int) -> list[Case]:
    """The same with the payload of a synchronisation, read from their own programs.

    Args:
        config: as it was loaded.
        sites: so many devices, one replica on each.

    Fails: `ConfigError` for a method that cannot be together with the config.
    """
    payloads = {}
    for method, period in {case.method: case.period for case in cases}.items():
        try:
            payloads[method] = _payload(config, method, period, sites)
        except ConfigError as error:
            raise ConfigError(
                f"{method!r} cannot be compiled for this config: {error}\n  leave it "
                "out of --methods, or leave out --compile"
            ) from None
    return [case._replace(payload_hlo=payloads[case.method]) for case in cases]


def _payload(config: ConfigDict, method: str, period: int, sites: int) -> float:
    """Bytes that cross the sites in a synchronisation."""
    if method == "ddp":
        return _payload_of_step(plan_of(config, sites))
    plan = plan_of(config, sites, with_method(config, method, period).local_updates)
    assert plan.programs is not None
    return plan.programs.round_payload()


def plan_of(
    config: ConfigDict, sites: int = 1, local_updates: ConfigDict | None = None
) -> Plan:
    """The plan of a config on one device for each site; synchronous by default."""
    config = config.copy_and_resolve_references()
    mesh = {"replica": sites, "data": 1, "fsdp": 1, "tensor": 1}
    config.mesh.update({**mesh, "slow": {"data": 1, "fsdp": 1}})
    config.data.domain_shards = 1
    if local_updates is None:
        local_updates = default_config().local_updates
    config.local_updates = local_updates
    return make_plan(resolve(config))


def _payload_of_step(plan: Plan) -> float:
    rows = plan.config.train.batch_size
    where = batch_sharding(plan.mesh)
    batch = {
        name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=where)
        for name, x in plan.task.example_batch(plan.config).items()
    }
    step: Any = plan.step
    program = step.lower(plan.shapes, batch).compile()
    return cross_replica_bytes(program, plan.mesh)
