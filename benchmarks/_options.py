"""Options that many benchmarks have."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """A number of times, for `argparse`.

    >>> at_least_one("3")
    3
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def add_timing(
    parser: argparse.ArgumentParser, *, rounds: int, threads: int = 2
) -> None:
    """`--threads`, one core or two, and `--rounds`."""
    parser.add_argument("--threads", type=int, default=threads, choices=(1, 2))
    parser.add_argument("--rounds", type=at_least_one, default=rounds)
