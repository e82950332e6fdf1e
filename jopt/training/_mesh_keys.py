"""`mesh` of a config: devices, groups of them, and what lies where."""

from __future__ import annotations

from collections.abc import Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.parallel import AXES, ShardingRule, make_mesh, sharding_rules


def mesh_of(config: ConfigDict) -> Mesh:
    """The mesh that a config asks for. Fails: as `make_mesh`."""
    sizes = {axis: config.mesh[axis] for axis in AXES}
    return make_mesh(**sizes, slow=config.mesh.slow.to_dict())


def rules_of(config: ConfigDict) -> tuple[ShardingRule, ...]:
    """`mesh.rules`, in order. Fails: as `sharding_rules`."""
    return sharding_rules(config.mesh.rules.to_dict())


def faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with `mesh`, before any device is asked for."""
    try:
        rules_of(config)
    except ConfigError as error:
        yield str(error)
    if config.mesh.tensor != 1 and not config.mesh.rules:
        yield (
            f"mesh.tensor is {config.mesh.tensor}, and no rule of mesh.rules says "
            "which parameters it splits; add one, or let mesh.tensor be 1"
        )
