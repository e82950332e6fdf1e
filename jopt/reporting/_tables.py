"""Tables as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with padded columns; what looks like a number goes right.

    >>> print(markdown_table(["side", "ms"], [["jopt", 1.5], ["torch", "10 (9)"]]))
    | side  |     ms |
    | ----- | -----: |
    | jopt  |    1.5 |
    | torch | 10 (9) |
    """
    cells = [[str(cell) for cell in row] for row in rows]
    numbers = [_is_numeric(column) for column in zip(*cells, strict=True)]
    numbers = numbers or [False] * len(header)
    widths = [
        max(1 + right, *map(len, column))  # "-:" is the shortest rule to the right
        for right, column in zip(numbers, zip(header, *cells, strict=True), strict=True)
    ]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numbers, strict=True)
    ]
    return "\n".join(
        "| " + " | ".join(_padded(line, widths, numbers)) + " |"
        for line in (list(header), rule, *cells)
    )


def _padded(
    line: Sequence[str], widths: Sequence[int], right: Sequence[bool]
) -> list[str]:
    return [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(line, widths, right, strict=True)
    ]


def _is_numeric(column: Sequence[str]) -> bool:
    return all(cell.lstrip("-")[:1].isdigit() or cell in ("", "-") for cell in column)


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV; what is None or missing is empty.

    >>> csv_text([{"a": 1, "b": "x"}, {"a": None, "b": "y"}])
    'a,b\\n1,x\\n,y\\n'
    """
    out = io.StringIO()
    if records:
        writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return out.getvalue()
