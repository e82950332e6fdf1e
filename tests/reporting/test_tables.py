"""Markdown tables."""

from __future__ import annotations

import pytest

from jopt.reporting import markdown_table


def test_numbers_go_right():
    rows = [["x", 1, -0.5], ["long", "20.5 (3)", 2]]
    assert markdown_table(["a", "b", "c"], rows).splitlines() == [
        "| a    |        b |    c |",
        "| ---- | -------: | ---: |",
        "| x    |        1 | -0.5 |",
        "| long | 20.5 (3) |    2 |",
    ]


def test_the_narrowest_column_of_numbers_has_a_valid_rule():
    assert markdown_table(["p"], [["-"]]).splitlines() == ["|  p |", "| -: |", "|  - |"]


def test_no_rows():
    assert markdown_table(["a", "bc"], []).splitlines() == ["| a | bc |", "| - | -- |"]


def test_a_short_row_is_refused():
    with pytest.raises(ValueError):
        markdown_table(["a", "b"], [["x"]])
