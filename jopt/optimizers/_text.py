"""Small pieces of printed tables."""

from __future__ import annotations

from collections.abc import Sequence


def describe_blocks(blocks: tuple[tuple[int, int, int], ...]) -> str:
    """Stacks of matrices in words: `(stack x) fan-in x fan-out`.

    >>> describe_blocks(((1, 8, 4), (12, 8, 2)))
    '8x4 + 12x 8x2'
    """
    return " + ".join((f"{s}x " if s != 1 else "") + f"{m}x{n}" for s, m, n in blocks)


def align(rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset()) -> str:
    """Rows of cells as lines of aligned columns; columns in `right` end flush.

    >>> print(align([("a", "1"), ("bb", "10")], right=frozenset({1})))
    a    1
    bb  10
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
