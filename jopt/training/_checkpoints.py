"""Checkpoints of the training state, through Orbax."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt.errors import CheckpointError, DamagedCheckpointError, nearest
from jopt.parallel import barrier, decided_by_first, in_any_process, is_loss
from jopt.training._manifest import (
    find_damage,
    find_leaf_damage,
    is_committed,
    write_manifest,
)
from jopt.training._quiet import quiet
from jopt.tree import leaf_digests, named_leaves

PyTree = Any
SET_ASIDE = "set_aside"


class Restored(NamedTuple):
    """A state read back, and what stood in the way.

    Attributes:
        step: of the state.
        state: as saved, bit for bit.
        damaged: newer steps that could not be trusted, and why.
    """

    step: int
    state: PyTree
    damaged: dict[int, str]


class Checkpoints:
    """Owns one folder of checkpoints, `folder/<step>/`.

    A state is stored as nested dicts by path, so that any Orbax reader sees plain names
    and no class of ours. A save is complete when it returns: the step's arrays are
    donated to the next step, and must not be read in the background meanwhile.

    A step counts once its manifest is there, which is written last; its files and
    leaves are compared with it before they are used. Nothing that may hold data is
    deleted or overwritten: a step that was not completed, or is damaged, moves to
    `folder/set_aside/`.

    Args:
        folder: made where it does not exist.
        keep: how many of the newest steps stay.
        keep_every_steps: multiples of this stay for good; 0 for none.
        read_only: change nothing, so that a run that is going on is not disturbed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_every_steps: int = 0,
        read_only: bool = False,
    ) -> None:
        # Orbax takes a second to import; a run needs it only at its first save.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._keep = keep
        self._keep_every_steps = keep_every_steps
        self.folder = folder.absolute()
        if jax.process_index() == 0 and not read_only:
            self._set_unfinished_aside()
        barrier("unfinished checkpoints are set aside")
        with quiet():
            self._manager = ocp.CheckpointManager(
                self.folder,
                # Registered, so that names in a checkpoint can be read before its data.
                item_handlers=ocp.StandardCheckpointHandler(),
                # Old steps go only after the new one's manifest is there: see `save`.
                options=ocp.CheckpointManagerOptions(
                    enable_async_checkpointing=False,
                    # What a killed or failed save has left under a temporary name.
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
            )

    def steps(self) -> list[int]:
        """The committed steps, oldest first."""
        return [s for s in _steps_in(self.folder) if is_committed(self.folder / str(s))]

    def latest(self) -> int | None:
        """The newest committed step."""
        return max(self.steps(), default=None)

    def has(self, step: int) -> bool:
        """Whether this is the newest committed step."""
        return decided_by_first(lambda: self.latest() == step)

    def save(self, step: int, state: PyTree) -> None:
        """Writes a step, or raises `CheckpointError`; a step is never overwritten."""
        leaves = named_leaves(state)
        newest = decided_by_first(self.latest)
        if newest is not None and newest >= step:
            raise CheckpointError(
                f"step {step} was not saved in {self.folder}: the newest step there is "
                f"{newest}"
            )
        try:
            with quiet():
                saved = self._manager.save(
                    step, args=self._ocp.args.StandardSave(_nest(leaves))
                )
                self._manager.wait_until_finished()
            if saved and jax.process_index() == 0:
                write_manifest(self.folder / str(step), step, _digests(leaves))
            barrier("a checkpoint is committed")
        except (OSError, ValueError) as error:
            if is_loss(error):
                raise
            # TensorStore reports a full or failing disk as a ValueError.
            raise CheckpointError(
                f"step {step} cannot be saved in {self.folder}: {error}\n"
                f"the newest good step is {newest}; make room and run the same command "
                "again"
            ) from error
        if not saved:
            raise CheckpointError(
                f"Orbax did not save step {step} in {self.folder}; the newest good "
                f"step is {newest}"
            )
        self._delete_old()

    def restore_newest(self, like: PyTree, *, strict: bool = False) -> Restored | None:
        """The newest step that is whole; None when there is no committed step at all.

        Damaged steps that are newer are set aside, so that the run can save them again.

        Args:
            like: as in `restore`.
            strict: fail at the first damaged step and leave it where it is.

        Fails: `CheckpointError` when every step is damaged, or the first one with
        `strict`, or when the step holds another state.
        """
        damaged: dict[int, str] = {}
        for step in reversed(decided_by_first(self.steps)):
            try:
                return Restored(step, self.restore(step, like), damaged)
            except DamagedCheckpointError as error:
                if strict:
                    raise
                damaged[step] = str(error)
                if jax.process_index() == 0:
                    self._set_aside(step)
                barrier("a damaged checkpoint is set aside")
                self._manager.reload()
        if damaged:
            raise CheckpointError(
                f"no step in {self.folder} is whole:\n  "
                + "\n  ".join(damaged.values())
                + f"\nthey are in {self.folder / SET_ASIDE}; the same command starts "
                "from the beginning"
            )
        return None

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The state of a step, with the structure, dtypes and shardings of `like`.

        Args:
            step: a committed step.
            like: the same tree of `jax.ShapeDtypeStruct` with shardings.

        Fails: `DamagedCheckpointError` when the files or leaves are not those that were
        saved; `CheckpointError` when names, shapes or dtypes differ. Both name them.
        """
        folder = self.folder / str(step)
        # Of several processes one reads every byte.
        _refuse(step, decided_by_first(lambda: find_damage(folder, step)))
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
        damage = find_leaf_damage(folder, _digests(found))
        if in_any_process(bool(damage)) and not damage:
            damage = ["another process found a leaf whose digest differs"]
        _refuse(step, damage)
        return jax.tree.unflatten(
            jax.tree.structure(like), [found[path] for path in wanted]
        )

    def _set_unfinished_aside(self) -> None:
        for step in _steps_in(self.folder):
            if not is_committed(self.folder / str(step)):
                self._set_aside(step)

    def _set_aside(self, step: int) -> None:
        shelf = self.folder / SET_ASIDE
        shelf.mkdir(exist_ok=True)
        names = (f"{step}" if n == 0 else f"{step}-{n}" for n in itertools.count())
        free = next(name for name in names if not (shelf / name).exists())
        (self.folder / str(step)).rename(shelf / free)

    def _delete_old(self) -> None:
        for step in decided_by_first(self.steps)[: -self._keep]:
            if not self._keep_every_steps or step % self._keep_every_steps:
                self._manager.delete(step)

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


def _refuse(step: int, damage: list[str]) -> None:
    """Raises `DamagedCheckpointError` if anything is damaged."""
    if damage:
        more = f" and {len(damage) - 3} more" if len(damage) > 3 else ""
        raise DamagedCheckpointError(
            f"step {step} is damaged ({'; '.join(damage[:3])}{more})"
        )


def _steps_in(folder: Path) -> list[int]:
    """The step folders, committed or not, oldest first."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def _digests(leaves: dict[str, Any]) -> dict[str, str]:
    """Digests of the leaves that this process holds whole."""
    return leaf_digests(
        {
            path: leaf
            for path, leaf in leaves.items()
            if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated
        }
    )
