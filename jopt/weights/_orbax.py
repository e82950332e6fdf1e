"""Folders that Orbax wrote: steps of a run, and trees of `StandardCheckpointer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jopt.errors import CheckpointError, ConfigError, DamagedCheckpointError
from jopt.training import _manifest
from jopt.training._quiet import quiet
from jopt.tree import leaf_digests, named_leaves
from jopt.weights._weights import Leaf, nested

_TREE = "_METADATA"


class OrbaxWeights:
    """One tree of nested dicts, whose leaves are read one by one."""

    def __init__(self, folder: Path, path: Path) -> None:
        # Orbax takes a second to import; nobody else needs it.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._tree = _with_tree(folder).absolute()
        self.path = path
        self.metadata: dict[str, str] = {}
        self.files = tuple(sorted(f for f in folder.rglob("*") if f.is_file()))
        self._checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        with _named_errors(folder), quiet():
            tree = self._checkpointer.metadata(self._tree).item_metadata.tree
        _check_dicts(folder, tree)
        self.leaves = {
            name: Leaf(tuple(leaf.shape), np.dtype(leaf.dtype))
            for name, leaf in named_leaves(tree).items()
        }

    def read(self, name: str) -> np.ndarray:
        ocp = self._ocp
        host = ocp.RestoreArgs(restore_type=np.ndarray)
        with _named_errors(self.path), quiet():
            tree = self._checkpointer.restore(
                self._tree,
                args=ocp.args.PyTreeRestore(
                    item=nested({name: 0}),
                    restore_args=nested({name: host}),
                    partial_restore=True,
                ),
            )
        return np.asarray(named_leaves(tree)[name])

    def close(self) -> None:
        self._checkpointer.close()


def open_orbax(folder: Path, path: Path) -> OrbaxWeights:
    """Opens a checkpoint; where a manifest lists its files they are compared with it.

    Args:
        folder: as `find_checkpoint` returns it.
        path: what the user gave.
    """
    if _manifest.is_committed(folder):
        damage = _manifest.find_damage(folder, step_of(folder))
        if damage:
            raise DamagedCheckpointError(
                f"{folder} is damaged ({'; '.join(damage[:3])})"
            )
    return OrbaxWeights(folder, path)


def find_checkpoint(path: Path) -> Path | None:
    """The folder of one checkpoint: `path` itself, or the newest committed step in it.

    Fails: `CheckpointError` when a run has no step that was saved to its end.
    """
    if _with_tree(path) is not path or (path / _TREE).is_file():
        return path
    run = (path / "config.json").is_file() and (path / "checkpoints").is_dir()
    steps = path / "checkpoints" if run else path
    numbered = [f for f in steps.iterdir() if f.is_dir() and f.name.isdecimal()]
    committed = [f for f in numbered if _manifest.is_committed(f)]
    if committed:
        return max(committed, key=step_of)
    if numbered or run:
        raise CheckpointError(f"{steps} has no step that was saved to its end")
    return None


class OrbaxWriter:
    """Collects a tree and writes it as `StandardCheckpointer` does, with a manifest.

    Orbax takes the tree as a whole: it is in memory once.

    Args:
        folder: that does not exist yet.
        metadata: kept as Orbax's custom metadata.
        step: for the manifest, `step_of` the folder's final name.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, str], step: int) -> None:
        self._folder = folder
        self._step = step
        self._metadata = dict(metadata)
        self._leaves: dict[str, np.ndarray] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        self._leaves[name] = array

    def close(self) -> None:
        import orbax.checkpoint as ocp

        with _named_errors(self._folder), quiet(), ocp.StandardCheckpointer() as writer:
            writer.save(
                self._folder.absolute(),
                nested(self._leaves),
                custom_metadata=self._metadata,
            )
            writer.wait_until_finished()
        _manifest.write_manifest(self._folder, self._step, leaf_digests(self._leaves))


def step_of(folder: Path) -> int:
    """The number of a step; 0 of a folder that is none."""
    return int(folder.name) if folder.name.isdecimal() else 0


def _with_tree(folder: Path) -> Path:
    """Where in a checkpoint its one tree lies: a manager's step has it in `default`."""
    inside = folder / "default"
    return inside if (inside / _TREE).is_file() else folder


def _check_dicts(folder: Path, tree: Any, path: str = "") -> None:
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            _check_dicts(folder, child, f"{path}/{name}" if path else str(name))
    elif isinstance(tree, list | tuple):
        raise ConfigError(
            f"{folder} holds a {type(tree).__name__} at {path or 'its top'}; nested "
            "dicts of arrays are expected"
        )


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """What Orbax and TensorStore raise, as ours, with the folder."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be read or written: {error}") from error
