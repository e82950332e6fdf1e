"""`python -m jopt compare FOLDER...`: which arm is better, and how sure is that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jopt.errors import ConfigError, print_error
from jopt.reporting import has_matplotlib, write_text
from jopt.studies.comparing._amounts import AXES
from jopt.studies.comparing._comparison import compare
from jopt.studies.comparing._comparison_figure import draw
from jopt.studies.comparing._further import further
from jopt.studies.comparing._sides import default_metric, read_sides
from jopt.studies.comparing._text import as_csv, as_html, as_markdown
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE


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
        more = further(found, args.task_targets, args.against)
        if args.csv:
            write_text(args.csv, as_csv(found, more))
        if args.html:
            write_text(args.html, as_html(found, more))
        if args.svg:
            draw(args.svg, found, more.panels)
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except OSError as error:
        print_error(error)
        return EXIT_FAILURE
    print(as_markdown(found, more))
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
        "--task_targets",
        type=_numbers,
        metavar="X,...",
        help="of several sweeps as tasks: one target each, in the order of the folders",
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


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))
