"""Which mesh axes the axes of a parameter are spread over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt.errors import ConfigError
from jopt.tree import PyTree, map_named, named_leaves

Names = tuple[str, ...]

# The mesh axis over which every group of devices works for itself.
SLOW_AXIS = "replica"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the parameters of a tree lie on a mesh.

    Attributes:
        mesh: the devices.
        specs: the `PartitionSpec` of each parameter, by path.
    """

    mesh: Mesh
    specs: Mapping[str, PartitionSpec]

    def names(self, path: str, axes: Iterable[int]) -> Names:
        """The mesh axes of more than one device over which these axes are spread."""
        spec = self.specs[path]
        found: list[str] = []
        for axis in axes:
            entry = spec[axis] if axis < len(spec) else None
            names = entry if isinstance(entry, tuple) else (entry,)
            found += [n for n in names if n is not None and self.mesh.shape[n] > 1]
        return tuple(found)

    def size(self, names: Names) -> int:
        """How many devices some mesh axes have together."""
        return math.prod(self.mesh.shape[name] for name in names)

    @property
    def workers(self) -> Names:
        """The mesh axes whose devices share the work on matrices."""
        shape = self.mesh.shape
        return tuple(n for n, size in shape.items() if size > 1 and n != SLOW_AXIS)

    def is_bound(self) -> bool:
        """Whether this is inside `shard_map` or `pmap`, where leaves are shards.

        Fails: `ConfigError` if only some of the mesh axes are bound.
        """
        names = [name for name, size in self.mesh.shape.items() if size > 1]
        bound = [name for name in names if _is_bound(name)]
        if bound and bound != names:
            raise ConfigError(
                f"shard_map binds the mesh axes {bound} of {names}; bind all of them, "
                "or update under jit"
            )
        return bool(bound)

    def global_shapes(self, tree: PyTree) -> PyTree:
        """Shapes and dtypes of the parameters that a tree holds, whole or in shards."""
        if not self.is_bound():
            return tree

        def whole(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
            shape = tuple(
                length * self.size(self.names(path, (axis,)))
                for axis, length in enumerate(leaf.shape)
            )
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        return map_named(whole, tree)


def _is_bound(name: str) -> bool:
    try:
        jax.lax.axis_size(name)
    except NameError:
        return False
    return True


def read_layout(shardings: PyTree | None) -> Layout | None:
    """The layout that `shardings` describes, None for None or a mesh of one device.

    Args:
        shardings: a tree like the parameters, or a mapping from paths, of
            `NamedSharding` or of what has one: arrays, `jax.ShapeDtypeStruct`.

    Fails: `ConfigError` for anything else, and for two meshes.

    >>> from jax.sharding import AxisType
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> read_layout({"w": NamedSharding(mesh, PartitionSpec())}) is None
    True
    """
    if shardings is None:
        return None
    found = {
        path: getattr(leaf, "sharding", leaf)
        for path, leaf in named_leaves(shardings).items()
    }
    wrong = [
        path for path, where in found.items() if not isinstance(where, NamedSharding)
    ]
    if wrong:
        raise ConfigError(
            f"shardings[{wrong[0]!r}] is {found[wrong[0]]!r}; expected a "
            "NamedSharding, or an array that has one"
        )
    meshes = {where.mesh for where in found.values()}
    if len(meshes) > 1:
        raise ConfigError(f"shardings are on {len(meshes)} different meshes; use one")
    if not meshes or next(iter(meshes)).size == 1:
        return None
    specs = {path: where.spec for path, where in found.items()}
    return Layout(meshes.pop(), specs)


def check_covered(layout: Layout, paths: Sequence[str]) -> None:
    """Fails with `ConfigError` if `shardings` does not have one of these parameters."""
    missing = [path for path in paths if path not in layout.specs]
    if missing:
        raise ConfigError(
            f"shardings does not say where {missing[0]!r} is; it knows "
            f"{', '.join(sorted(layout.specs)) or 'nothing'}"
        )
