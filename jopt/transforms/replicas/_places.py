"""Where replicas lie, and how they meet: `shard_map`, `vmap` and `pmap` alike.

All that replicas do is written once, over blocks: arrays whose leading axis holds the
replicas of one device. Under `vmap` one block holds them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jopt.errors import ConfigError, check_choice
from jopt.transforms._gradient_pairs import is_inexact
from jopt.tree import PyTree

# R replicas in all, K of them in a block.

AXIS = "replica"
OWN = PartitionSpec(AXIS)  # leading axis R, each replica its own
COMMON = PartitionSpec()  # one for all replicas

Mode: TypeAlias = Literal["shard_map", "vmap", "pmap"]


class Block(NamedTuple):
    """The replicas of one device, as a function of blocks sees them.

    Attributes:
        replicas: R.
        size: K.
        axis: mesh axis over which the blocks are spread; None where there is one.
        in_turn: whether the replicas of a block run one after the other, so that what
            one of them skips is not computed, or together under `vmap`.
        spmd: mesh axis that `vmap` over the replicas is spread over.
    """

    replicas: int
    size: int
    axis: str | None
    in_turn: bool
    spmd: str | None = None

    def numbers(self) -> jax.Array:
        """int32 (K,): which replicas these are.

        >>> Block(4, 4, None, False).numbers().tolist()
        [0, 1, 2, 3]
        """
        first = 0 if self.axis is None else jax.lax.axis_index(self.axis) * self.size
        return first + jnp.arange(self.size, dtype=jnp.int32)

    def each(self, fn: Callable[..., Any], *blocks: PyTree) -> PyTree:
        """`fn` of every replica, in turn or together.

        >>> Block(2, 2, None, True).each(lambda x: 2 * x, jnp.arange(2)).tolist()
        [0, 2]
        """
        if not self.in_turn:
            return jax.vmap(fn, spmd_axis_name=self.spmd)(*blocks)
        if self.size == 1:
            one = jax.tree.map(lambda x: x[0], blocks)
            return jax.tree.map(lambda x: jnp.asarray(x)[None], fn(*one))
        return jax.lax.map(lambda block: fn(*block), blocks)

    def total(self, tree: PyTree) -> PyTree:
        """Sums over all replicas, in the dtype of each leaf: (K, ...) -> (...).

        >>> Block(2, 2, None, False).total(jnp.array([[1.0], [2.0]])).tolist()
        [3.0]
        """
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), tree)
        return sums if self.axis is None else jax.lax.psum(sums, self.axis)

    def from_first(self, leaf: jax.Array) -> jax.Array:
        """What replica 0 has of a leaf of any dtype: (K, ...) -> (...).

        >>> Block(2, 2, None, False).from_first(jnp.array([True, False]))
        Array(True, dtype=bool)
        """
        if self.axis is None:
            return leaf[0]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self.from_first(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        here = leaf[0].astype(jnp.uint8) if leaf.dtype == bool else leaf[0]
        mine = jax.lax.axis_index(self.axis) == 0
        sent = jax.lax.psum(jnp.where(mine, here, 0).astype(here.dtype), self.axis)
        return sent.astype(leaf.dtype)

    def copies(self, leaf: jax.Array, like: jax.Array) -> jax.Array:
        """One array for each replica, in the dtype and shape of `like` (K, ...)."""
        return jnp.broadcast_to(leaf.astype(like.dtype), like.shape)


class Places(NamedTuple):
    """How blocks are spread over devices.

    Attributes:
        replicas: R.
        mode: `shard_map`, `vmap` or `pmap`.
        mesh: with an axis `replica`; None is a mesh of as many devices as divide R.
    """

    replicas: int
    mode: Mode
    mesh: Mesh | None

    def check(self) -> None:
        """Fails with `ConfigError` for a mesh that does not fit."""
        check_choice("mode", self.mode, get_args(Mode))
        if self.mesh is None:
            return
        if self.mode == "pmap":
            raise ConfigError(
                "pmap takes the devices in order and no mesh; leave mesh out, or use "
                "mode='shard_map'"
            )
        if AXIS not in self.mesh.shape:
            raise ConfigError(
                f"the mesh has the axes {tuple(self.mesh.shape)} and none named "
                f"{AXIS!r}; make it with jopt.parallel.make_mesh(replica=...)"
            )
        if self.replicas % self.mesh.shape[AXIS]:
            raise ConfigError(
                f"num_replicas is {self.replicas}, which the {self.mesh.shape[AXIS]} "
                f"places of mesh axis {AXIS!r} do not divide"
            )

    def on_mesh(self) -> Mesh:
        """The mesh of `shard_map`."""
        if self.mesh is not None:
            return self.mesh
        devices = jax.devices()
        places = max(n for n in range(1, len(devices) + 1) if self.replicas % n == 0)
        grid = np.array(devices[:places])
        return Mesh(grid, (AXIS,), axis_types=(AxisType.Auto,))

    def run(
        self, fn: Callable[..., Any], takes: PyTree, gives: PyTree
    ) -> Callable[..., Any]:
        """`fn(block, *args)` as a function of whole arrays.

        Args:
            takes: a tuple of `OWN`, `COMMON` or other specs over `replica`, a prefix of
                the arguments.
            gives: the same for what comes out.

        >>> places = Places(2, "vmap", None)
        >>> places.run(lambda b, x: b.total(x), (OWN,), COMMON)(jnp.ones(2)).tolist()
        2.0
        """
        if self.mode == "vmap":
            spmd = AXIS if self.mesh is not None else None
            block = Block(self.replicas, self.replicas, None, in_turn=False, spmd=spmd)
            return lambda *args: fn(block, *args)
        if self.mode == "pmap":
            return self._pmap(fn, takes, gives)
        mesh = self.on_mesh()
        block = Block(
            self.replicas, self.replicas // mesh.shape[AXIS], AXIS, in_turn=True
        )
        return jax.shard_map(
            lambda *args: fn(block, *args),
            mesh=mesh,
            in_specs=takes,
            out_specs=gives,
            axis_names={AXIS},
            # An inner optimizer may hold anything, also what says nothing about which
            # values vary. Gradients are taken inside, so nothing hangs on it.
            check_vma=False,
        )

    def _pmap(
        self, fn: Callable[..., Any], takes: PyTree, gives: PyTree
    ) -> Callable[..., Any]:
        block = Block(self.replicas, 1, AXIS, in_turn=True)

        def body(*args: Any) -> Any:
            blocks = _per_spec(lambda x: x[None], takes, args)
            return _per_spec(lambda x: x[0], gives, fn(block, *blocks))

        def axes(specs: PyTree) -> PyTree:
            return jax.tree.map(lambda s: 0 if s == OWN else None, specs, is_leaf=_spec)

        return jax.pmap(body, axis_name=AXIS, in_axes=axes(takes), out_axes=axes(gives))

    def stack(self, tree: PyTree) -> PyTree:
        """One copy of every leaf for each replica: (...) -> (R, ...), on its place.

        A leaf that lies on the mesh keeps its axes behind the replica's.
        """

        def copies(tree: PyTree) -> PyTree:
            return jax.tree.map(
                lambda x: jnp.broadcast_to(x, (self.replicas, *x.shape)), tree
            )

        tree = jax.tree.map(jnp.asarray, tree)
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))
        if traced or self.mode == "pmap" or (self.mode == "vmap" and not self.mesh):
            return copies(tree)
        mesh = self.on_mesh()
        places = jax.tree.map(lambda x: NamedSharding(mesh, _behind(x, mesh)), tree)
        return jax.jit(copies, out_shardings=places)(tree)


def _spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _per_spec(fn: Callable[[Any], Any], specs: PyTree, tree: PyTree) -> PyTree:
    """`fn` of the leaves that are each replica's own."""
    return jax.tree.map(
        lambda spec, part: jax.tree.map(fn, part) if spec == OWN else part,
        specs,
        tree,
        is_leaf=_spec,
    )


def _behind(leaf: jax.Array, mesh: Mesh) -> PartitionSpec:
    """The spec of copies of a leaf."""
    where = leaf.sharding
    if isinstance(where, NamedSharding) and where.mesh == mesh:
        return PartitionSpec(AXIS, *where.spec)
    return OWN


def trained(tree: PyTree) -> PyTree:
    """The floating and complex leaves of parameters; None in place of the others.

    >>> trained({"w": 1.0, "n": 1})
    {'n': None, 'w': 1.0}
    """
    return jax.tree.map(lambda x: x if is_inexact(x) else None, tree)


def with_trained(params: PyTree, new: PyTree) -> PyTree:
    """`params` with the leaves that `new` has.

    >>> with_trained({"w": 1.0, "n": 1}, {"w": 2.0, "n": None})
    {'n': 1, 'w': 2.0}
    """
    return jax.tree.map(lambda old, x: old if x is None else x, params, new)
