"""`python -m jopt compare FOLDER...`: which arm is better, and how sure is that."""

from __future__ import annotations

import argparse
import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jopt.errors import ConfigError, print_error
from jopt.reporting import csv_text, has_matplotlib, markdown_table, page, write_text
from jopt.studies.comparing._amounts import AXES
from jopt.studies.comparing._budgets import GRADIENTS
from jopt.studies.comparing._comparison import LEVEL, Comparison, Pair, Row, compare
from jopt.studies.comparing._comparison_figure import draw
from jopt.studies.comparing._sides import default_metric, read_sides
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE

Table = tuple[list[str], list[list[str]]]


def main(argv: Sequence[str]) -> int:
    """Prints a comparison as Markdown; 2 when folders cannot be compared."""
    args = _parser().parse_args(argv)
    try:
        if args.svg and not has_matplotlib():
            raise ConfigError("--svg needs matplotlib: pip install 'jopt[docs]'")
        metric = args.metric or default_metric(args.folders)
        sides = read_sides(args.folders, metric)
        found = compare(
            sides, metric, args.target, args.against, at=args.at, share=args.share
        )
        if args.csv:
            write_text(args.csv, as_csv(found))
        if args.html:
            write_text(args.html, as_html(found))
        if args.svg:
            draw(args.svg, found, sides)
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except OSError as error:
        print_error(error)
        return EXIT_FAILURE
    print(as_markdown(found))
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt compare", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="of a sweep or a run"
    )
    parser.add_argument("--metric", help="name in the result of a run; smaller wins")
    parser.add_argument(
        "--target", type=float, help="time to this value is told; default: the worst"
    )
    parser.add_argument(
        "--against", metavar="SIDE", help="compare all others with this one alone"
    )
    parser.add_argument(
        "--at",
        choices=AXES,
        help="compare where all have spent as much: gradients of a replica, or time by "
        "the model of --share",
    )
    parser.add_argument(
        "--share",
        type=_share,
        metavar="C",
        help="of communication in a data-parallel step: tells modelled time",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write as CSV too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="and as a page")
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="and as a figure (matplotlib)"
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value:g} does not lie in [0, 1)")
    return value


def as_markdown(found: Comparison) -> str:
    """Both tables and what they rest on."""
    parts = [markdown_table(*_rows(found))]
    if found.pairs:
        parts.append(markdown_table(*_pairs(found)))
    return "\n\n".join([*parts, *_notes(found)])


def as_html(found: Comparison) -> str:
    """The same on one page that opens offline."""
    body = [f"<h1>{html.escape(found.metric)}</h1>", _html_table(_rows(found))]
    if found.pairs:
        body.append(_html_table(_pairs(found)))
    body += [f"<p>{html.escape(note)}</p>" for note in _notes(found)]
    return page(f"Comparison: {found.metric}", "".join(body))


def as_csv(found: Comparison) -> str:
    """One number a line, in full: first, second (of a pair), quantity, value."""
    of_rows = ["tuning", "seeds", "diverged", "mean", "error"]
    of_rows += ["steps_to_target", "secs_to_target", "step_secs"]
    of_rows += ["gradients_to_target", "time_to_target", "wire_bytes"]
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
    ]
    keys = ("first", "second", "quantity", "value")
    return csv_text([dict(zip(keys, line, strict=True)) for line in lines])


def _rows(found: Comparison) -> Table:
    header = [
        "",
        "tuning",
        "seeds",
        f"{found.metric}, mean ± s.e.",
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
            _reached(row.steps_to_target),
            _reached(row.secs_to_target),
            "-" if math.isnan(row.step_secs) else f"{1e3 * row.step_secs:.2f}",
            *(cell(row) for _, cell in _spent(found)),
        ]
        for row in found.rows
    ]


def _spent(found: Comparison) -> list[tuple[str, Callable[[Row], str]]]:
    """Columns about what is spent, where replicas part or a share is known."""
    columns: list[tuple[str, Callable[[Row], str]]] = []
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


def _html_table(table: Table) -> str:
    header, rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
