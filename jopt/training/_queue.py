"""Programs one after the other, where two in a queue could wait for each other."""

from __future__ import annotations

from typing import TypeVar

import jax
from jax.sharding import Mesh

from jopt.parallel import settle

T = TypeVar("T")


def finished(mesh: Mesh, result: T) -> T:
    """What a program gave, once it is there on the devices of a mesh of CPUs.

    Queued collectives on few cores deadlock, since CPU devices share the cores. Other
    devices are not waited for.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> finished(mesh, {"w": 1.0})
    {'w': 1.0}
    """
    if mesh.size > 1 and jax.default_backend() == "cpu":
        settle(jax.tree.leaves(result)[0])
        jax.block_until_ready(result)
    return result
