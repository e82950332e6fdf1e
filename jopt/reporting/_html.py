"""`report.html`: one run on one page that opens offline."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopt.reporting._metrics import read_metrics

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
       padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
         overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { font-size: 13px; fill: currentColor; }
pre { white-space: pre-wrap; }
"""


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from the plain files there.

    It shows the result, the loss curves, a sampled passage, the config and the
    versions. Returns the page's path. Fails: `FileNotFoundError` when the folder has
    no run.
    """
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    metrics = read_metrics(folder / "metrics.jsonl")
    parts = [
        f"<h1>{html.escape(record['config_name'])}</h1>",
        _table({"state": status["state"], **status.get("result", {})}),
        "<h2>Loss</h2>",
        _curves(
            {
                "training": _series(metrics, "train/loss"),
                "validation": _series(metrics, "eval/loss"),
            }
        ),
        *_sample(status.get("sample")),
        "<h2>How to reproduce</h2>",
        f"<pre>{html.escape(' '.join(record['command']))}</pre>",
        _table({**record["versions"], "commit": record["commit"]}),
        "<h2>Config</h2>",
        _table(dict(sorted(record["flat_config"].items()))),
    ]
    path = folder / "report.html"
    path.write_text(page(record["config_name"], "".join(parts)), encoding="utf-8")
    return path


def page(title: str, body: str) -> str:
    """A whole HTML page around `body`, which is HTML; `title` is plain text."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _sample(text: str | None) -> list[str]:
    if not text:
        return []
    return ["<h2>A sampled passage</h2>", f"<pre>{html.escape(text)}</pre>"]


def _table(rows: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_show(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _show(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _series(metrics: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(r["step"], r[name]) for r in metrics if r.get(name) is not None]


def _curves(curves: dict[str, list[tuple[float, float]]]) -> str:
    """Curves with labels at their ends, on plain inline SVG."""
    points = [point for series in curves.values() for point in series]
    if not points:
        return "<p>No step was recorded.</p>"
    left, right, top, bottom = 60.0, 680.0, 10.0, 290.0
    x_max = max(x for x, _ in points) or 1
    y_min, y_max = min(y for _, y in points), max(y for _, y in points)
    span = (y_max - y_min) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * x / x_max,
            bottom - (bottom - top) * (y - y_min) / span,
        )

    drawn = []
    for (name, series), dash in zip(curves.items(), ("", "6 4"), strict=True):
        if not series:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in series))
        end_x, end_y = place(*series[-1])
        drawn.append(
            f"<polyline points='{path}' fill='none' stroke='currentColor' "
            f"stroke-width='1.5' stroke-dasharray='{dash}'/>"
            f"<text x='{end_x + 4:.1f}' y='{end_y + 4:.1f}'>{name}</text>"
        )
    axes = (
        f"<path d='M{left},{top}V{bottom}H{right}' fill='none' stroke='currentColor'/>"
        f"<text x='{left - 6}' y='{top + 8}' text-anchor='end'>{y_max:.3f}</text>"
        f"<text x='{left - 6}' y='{bottom}' text-anchor='end'>{y_min:.3f}</text>"
        f"<text x='{left}' y='{bottom + 18}'>0</text>"
        f"<text x='{right}' y='{bottom + 18}' text-anchor='end'>"
        f"{x_max:.0f} steps</text>"
        f"<text x='{left + 6}' y='{top + 8}'>nats per token</text>"
    )
    return f"<svg viewBox='0 0 780 315' role='img'>{axes}{''.join(drawn)}</svg>"
