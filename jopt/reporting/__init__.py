"""What a run writes for people and programs to read."""

from jopt.reporting._communication import read_communication, wire_bytes_per_step
from jopt.reporting._console import Console
from jopt.reporting._figures import has_matplotlib, save_svg
from jopt.reporting._files import read_json, read_run, write_json, write_text
from jopt.reporting._metrics import MetricsLog, read_metrics
from jopt.reporting._mirrors import mirror_faults, open_mirrors
from jopt.reporting._page import html_table, page, write_page, write_report
from jopt.reporting._status import is_held, read_status
from jopt.reporting._tables import csv_text, markdown_table

__all__ = [
    "Console",
    "MetricsLog",
    "csv_text",
    "has_matplotlib",
    "html_table",
    "is_held",
    "markdown_table",
    "mirror_faults",
    "open_mirrors",
    "page",
    "read_communication",
    "read_json",
    "read_metrics",
    "read_run",
    "read_status",
    "save_svg",
    "wire_bytes_per_step",
    "write_json",
    "write_page",
    "write_report",
    "write_text",
]
