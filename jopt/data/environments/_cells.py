"""Rows of a table in a CSV file, whose cells say where they are."""

from __future__ import annotations

import csv
import math
from collections.abc import Container, Sequence
from pathlib import Path

from jopt.errors import DataError


class Row(dict[str, str]):
    """The cells of one row by column.

    Attributes:
        path, line: where it ends.
    """

    def __init__(self, cells: dict[str, str], path: Path, line: int) -> None:
        super().__init__(cells)
        self.path, self.line = path, line

    def text(self, column: str) -> str:
        """A cell as it is. Fails: `DataError` where the row ends before it."""
        found = self[column]
        if found is None:
            raise self.fault(column, "a cell", "the end of the row")
        return found

    def number(self, column: str) -> float:
        """Fails: `DataError` for a cell that is no finite number."""
        found = self.text(column)
        try:
            value = float(found)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(column, "a number", repr(found))
        return value

    def whole(self, column: str) -> int:
        """Fails: `DataError` for a cell that is no whole number."""
        value = self.number(column)
        if value != int(value):
            raise self.fault(column, "a whole number", repr(self[column]))
        return int(value)

    def one_of(self, column: str, choices: Container[str]) -> str:
        """Fails: `DataError` for a cell that is none of some."""
        found = self.text(column)
        if found not in choices:
            raise self.fault(column, f"one of {choices}", repr(found))
        return found

    def fault(self, column: str, expected: str, found: str) -> DataError:
        """The error of a cell."""
        return DataError(
            f"{self.path}, line {self.line}, column {column}: expected {expected}, "
            f"found {found}"
        )


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """All rows of a table.

    Fails: `DataError` where the file or one of the columns is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or ()
            missing = [name for name in columns if name not in present]
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}; found "
                    f"{', '.join(present) or 'none'}"
                )
            return [Row(cells, path, reader.line_num) for cells in reader]
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error}; download the set with the package wilds and "
            "name its folder"
        ) from error
