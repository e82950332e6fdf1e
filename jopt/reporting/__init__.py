"""What a run writes for people and programs to read."""

from jopt.reporting._console import Console
from jopt.reporting._metrics import MetricsLog, read_metrics
from jopt.reporting._mirrors import mirror_faults, open_mirrors
from jopt.reporting._page import write_page, write_report

__all__ = [
    "Console",
    "MetricsLog",
    "mirror_faults",
    "open_mirrors",
    "read_metrics",
    "write_page",
    "write_report",
]
