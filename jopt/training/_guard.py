"""When skipped steps end in going back, and when in giving up."""

from __future__ import annotations

SKIPPED = "optim/skipped"
SKIPPED_IN_A_ROW = "optim/skipped_in_a_row"


class DivergedError(RuntimeError):
    """The run cannot go on: its loss or its steps are no longer finite."""


class Guard:
    """Follows the counter of `skip_nonfinite`, one step after the other.

    Args:
        in_a_row: steps skipped without a sound one between them, after which a run
            goes back to its last good checkpoint.
        rollbacks: how often it may do so before it gives up.
    """

    def __init__(self, *, in_a_row: int, rollbacks: int) -> None:
        self._in_a_row = in_a_row
        self._allowed = rollbacks
        self._skipped = 0
        self.rollbacks = 0

    def see(self, skipped_in_a_row: float) -> None:
        """Takes note of the counter after a step."""
        self._skipped = int(skipped_in_a_row)

    @property
    def tripped(self) -> bool:
        """Whether the run has to go back before it does anything else."""
        return self._skipped >= self._in_a_row

    def roll_back(self) -> None:
        """Counts a rollback, or raises `DivergedError` when all are used up."""
        if self.rollbacks == self._allowed:
            raise DivergedError(
                f"{self._skipped} steps in a row were not finite, and the run has gone "
                f"back {self.rollbacks} times already (train.guard.rollbacks); lower "
                "the learning rate or look at the data"
            )
        self.rollbacks += 1
        self._skipped = 0
