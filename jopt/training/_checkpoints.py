"""Checkpoints of the training state, through Orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jopt.errors import CheckpointError, nearest
from jopt.tree import named_leaves

PyTree = Any


class Checkpoints:
    """Owns one folder of checkpoints, `folder/<step>/`.

    A state is stored as nested dicts by path, so that any Orbax reader sees plain names
    and no class of ours. A save is complete when it returns: the step's arrays are
    donated to the next step, and must not be read in the background meanwhile.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        # Orbax takes a second to import; a run needs it only at its first save.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            # Registered, so that the names in a checkpoint can be read before its data.
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def latest(self) -> int | None:
        """The newest committed step."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree) -> None:
        """Writes a step, or raises `CheckpointError`; a step is never overwritten."""
        saved = self._manager.save(
            step, args=self._ocp.args.StandardSave(_nest(named_leaves(state)))
        )
        self._manager.wait_until_finished()
        if not saved:
            raise CheckpointError(
                f"step {step} was not saved in {self.folder}: the newest step there is "
                f"{self.latest()}"
            )

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The state of a step, with the structure, dtypes and shardings of `like`.

        Args:
            step: a committed step.
            like: the same tree of `jax.ShapeDtypeStruct` with shardings.

        Fails: `CheckpointError` when names, shapes or dtypes differ, naming them.
        """
        wanted = named_leaves(like)
        self._check_names(step, wanted)
        try:
            restored = self._manager.restore(
                step, args=self._ocp.args.StandardRestore(_nest(wanted))
            )
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"step {step} in {self.folder} cannot be read: {error}"
            ) from error
        found = named_leaves(restored)
        return jax.tree.unflatten(
            jax.tree.structure(like), [found[path] for path in wanted]
        )

    def _check_names(self, step: int, wanted: dict[str, Any]) -> None:
        metadata = self._manager.item_metadata(step)
        stored = {
            path: tuple(leaf.shape)
            for path, leaf in named_leaves(getattr(metadata, "tree", metadata)).items()
        }
        faults = []
        for path, leaf in wanted.items():
            if path not in stored:
                close = nearest(path, stored)
                hint = f" (nearest: {close})" if close else ""
                faults.append(f"{path} is not in the checkpoint{hint}")
            elif stored[path] != tuple(leaf.shape):
                faults.append(
                    f"{path} has shape {stored[path]}, expected {tuple(leaf.shape)}"
                )
        faults += [f"{path} is not expected" for path in stored if path not in wanted]
        if faults:
            shown = "\n  ".join(faults[:8])
            more = f"\n  and {len(faults) - 8} more" if len(faults) > 8 else ""
            raise CheckpointError(
                f"step {step} in {self.folder} holds another state:\n  {shown}{more}"
            )

    def close(self) -> None:
        self._manager.close()


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from names; PRNG-free leaves, empty sub-trees vanish."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = nested
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return nested
