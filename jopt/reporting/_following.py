"""A run folder that is looked at again and again, whatever becomes of it."""

from __future__ import annotations

from pathlib import Path

from jopt.reporting._metrics import NewRecords


class Following:
    """The new records of one run, and whether another has taken its place.

    A run writes `config.json` once, so another one there is another run: somebody has
    deleted the folder and started again. To be made before `config.json` is read.

    Attributes:
        new: the records that come.
        run: which run this is, as text that no later one in this folder has.
    """

    def __init__(self, folder: Path) -> None:
        self._config = folder / "config.json"
        self.run = self._present()
        self.new = NewRecords(folder / "metrics.jsonl")

    def is_over(self) -> bool:
        """Whether the folder holds another run by now, or its records begin anew."""
        present = self._present()
        return present not in ("", self.run) or self.new.is_other()

    def _present(self) -> str:
        try:
            found = self._config.stat()
        except FileNotFoundError:
            return ""  # deleted, and perhaps about to come back
        # The number of a deleted file is given away again.
        return f"{found.st_ino}.{found.st_mtime_ns}"
