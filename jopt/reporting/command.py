"""`python -m jopt report RUN...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jopt.reporting._html import write_report


def main(argv: Sequence[str]) -> int:
    """Writes the report of each run folder; returns 2 when one is not a run."""
    if not argv or argv[0].startswith("-"):
        print("usage: python -m jopt report RUN...", file=sys.stderr)
        return 2
    code = 0
    for name in argv:
        try:
            print(write_report(Path(name)))
        except (OSError, json.JSONDecodeError, KeyError) as error:
            print(f"{name} is not a readable run folder: {error}", file=sys.stderr)
            code = 2
    return code
