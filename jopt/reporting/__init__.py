"""What a run writes for people and programs to read."""

from jopt.reporting._console import Console
from jopt.reporting._html import write_report
from jopt.reporting._metrics import MetricsLog, read_metrics

__all__ = ["Console", "MetricsLog", "read_metrics", "write_report"]
