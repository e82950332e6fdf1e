"""What a run writes for people and programs to read."""

from jopt.reporting._console import Console
from jopt.reporting._html import page, write_report
from jopt.reporting._metrics import MetricsLog, read_metrics
from jopt.reporting._tables import markdown_table

__all__ = [
    "Console",
    "MetricsLog",
    "markdown_table",
    "page",
    "read_metrics",
    "write_report",
]
