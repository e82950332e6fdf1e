"""A comparison as Markdown, as a page and as CSV."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

from jopt.reporting import csv_text, html_table, markdown_table, page
from jopt.studies._table_pages import as_markdown as table_text
from jopt.studies.comparing._budgets import GRADIENTS
from jopt.studies.comparing._comparison import LEVEL, Comparison, Pair, Row
from jopt.studies.comparing._further import Further

Table = tuple[list[str], list[list[str]]]
Column = tuple[str, Callable[[Row], str]]


def as_markdown(found: Comparison, more: Further) -> str:
    """Both tables and what they rest on, and further ones."""
    parts = [markdown_table(*_rows(found))]
    if found.pairs:
        parts.append(markdown_table(*_pairs(found)))
    parts += [*_notes(found), *more.notes]
    return "\n\n".join([*parts, *map(table_text, more.tables)])


def as_html(found: Comparison, more: Further) -> str:
    """The same on one page that opens offline."""
    body = [f"<h1>{html.escape(found.metric)}</h1>", _html(_rows(found))]
    if found.pairs:
        body.append(_html(_pairs(found)))
    body += [f"<p>{html.escape(note)}</p>" for note in (*_notes(found), *more.notes)]
    for table in more.tables:
        body.append(f"<h2>{html.escape(table.title)}</h2>")
        body.append(f"<p>{html.escape(table.note)}</p>")
        body.append(html_table(table.rows, table.header))
    return page(f"Comparison: {found.metric}", "".join(body))


def _html(table: Table) -> str:
    header, rows = table
    return html_table(rows, header)


def as_csv(found: Comparison, more: Further) -> str:
    """One number a line, in full: first, second (of a pair), quantity, value."""
    of_rows = ["tuning", "seeds", "diverged", "mean", "error"]
    of_rows += ["steps_to_target", "secs_to_target", "step_secs"]
    of_rows += ["gradients_to_target", "time_to_target", "wire_bytes"]
    of_rows += ["iqm", "iqm_low", "iqm_high"]
    of_pairs = ["difference", "low", "high", "win_rate"]
    of_pairs += ["pvalue", "adjusted", "budgets", "claimed"]
    lines = [
        *(
            (row.name, "", name, getattr(row, name))
            for row in found.rows
            for name in of_rows
        ),
        *(
            (pair.first, pair.second, name, getattr(pair, name))
            for pair in found.pairs
            for name in of_pairs
        ),
        *more.lines,
    ]
    keys = ("first", "second", "quantity", "value")
    return csv_text([dict(zip(keys, line, strict=True)) for line in lines])


def _rows(found: Comparison) -> Table:
    header = [
        "",
        "tuning",
        "seeds",
        f"{found.metric}, mean ± s.e.",
        *(heading for heading, _ in _robust(found)),
        "steps to target",
        "secs to target",
        "ms/step",
        *(heading for heading, _ in _spent(found)),
    ]
    return header, [
        [
            row.name,
            row.tuning,
            str(row.seeds),
            f"{row.diverged} diverged"
            if row.diverged
            else f"{_number(row.mean)} ± {_number(row.error)}",
            *(cell(row) for _, cell in _robust(found)),
            _reached(row.steps_to_target),
            _reached(row.secs_to_target),
            "-" if math.isnan(row.step_secs) else f"{1e3 * row.step_secs:.2f}",
            *(cell(row) for _, cell in _spent(found)),
        ]
        for row in found.rows
    ]


def _robust(found: Comparison) -> list[Column]:
    """The interquartile mean, where there are seeds enough for one."""
    if all(math.isnan(row.iqm) for row in found.rows):
        return []
    return [("IQM, 95 % interval", _interquartile)]


def _interquartile(row: Row) -> str:
    if math.isinf(row.iqm):
        return "diverged"
    if math.isnan(row.iqm_low):
        return _number(row.iqm)
    return f"{row.iqm:.4f} ({row.iqm_low:.4f} to {row.iqm_high:.4f})"


def _spent(found: Comparison) -> list[Column]:
    """Columns about what is spent, where replicas part or a share is known."""
    columns: list[Column] = []
    if any(not math.isnan(row.wire_bytes) for row in found.rows):
        columns += [
            ("gradients to target", lambda row: _reached(row.gradients_to_target)),
            ("MB sent a step (model)", lambda row: _megabytes(row.wire_bytes)),
        ]
    if found.share is not None:
        columns.append(
            ("DDP steps to target (model)", lambda row: _reached(row.time_to_target))
        )
    return columns


def _megabytes(count: float) -> str:
    return "-" if math.isnan(count) else f"{count / 1e6:.4g}"


def _pairs(found: Comparison) -> Table:
    header = ["", "difference", "95 % interval", "wins", "p", "p (Holm)", "claim"]
    return header, [
        [
            f"{pair.first} - {pair.second}",
            _number(pair.difference),
            "-" if math.isnan(pair.low) else f"{pair.low:.4f} to {pair.high:.4f}",
            f"{pair.win_rate:.2f}",
            _pvalue(pair.pvalue),
            _pvalue(pair.adjusted),
            _claim(pair),
        ]
        for pair in found.pairs
    ]


def _claim(pair: Pair) -> str:
    if not pair.budgets:
        return "none: budgets differ"
    if not pair.claimed:
        return "none"
    at = " at equal gradients" if pair.budgets == GRADIENTS else ""
    return f"{pair.first} is better{at}"


def _notes(found: Comparison) -> list[str]:
    seeds = ", ".join(map(str, found.seeds)) or "none"
    notes = [
        f"Seeds common to all: {seeds}. Target: {_number(found.target)}, median over "
        "seeds, as far as evaluations tell."
    ]
    if found.pairs:
        notes.append(
            "Difference: paired by seed, mean and percentile bootstrap. Wins: share "
            "of all pairs of seeds in which the first is smaller. p: one-sided "
            f"paired t-test; Holm over the {found.tests} ordered pairs, claims at "
            f"{LEVEL}."
        )
    if _robust(found):
        notes.append(
            "IQM: mean over seeds without the lowest and the highest quarter, and its "
            "percentile bootstrap."
        )
    if any(row.diverged for row in found.rows):
        notes.append(
            "For p a diverged run counts as the worst result of its pair, and its side "
            "never wins against one that did not diverge with that seed."
        )
    if found.at:
        notes.append(found.at)
    if found.share is not None:
        notes.append(
            f"Modelled time, c = {found.share:g} of a data-parallel step is "
            "communication: (1 - c)(1 - p) + c / H for a step of replicas apart."
        )
    if found.unequal:
        notes.append(_of_budgets(found))
    notes += [f"No claim is made: {obstacle}." for obstacle in found.obstacles]
    return notes


def _of_budgets(found: Comparison) -> str:
    """Why some pairs have no claim, or one at equal gradients."""
    differ = "; ".join(found.unequal)
    kinds = {pair.budgets for pair in found.pairs}
    if kinds == {GRADIENTS}:
        return (
            "Tuning and runs are equal in gradients, of which a step may evaluate "
            "several, and not in tokens."
        )
    if not any(kinds):
        return f"No claim is made: {differ}."
    return (
        "A pair has no claim where budgets are equal neither in tokens nor in "
        f"gradients, of which a step may evaluate several: {differ}."
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _pvalue(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _reached(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "not reached" if math.isinf(value) else f"{value:.0f}"
