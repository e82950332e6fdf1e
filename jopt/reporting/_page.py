"""`report.html`: runs on one page that opens offline.

The words and tables are made here. The curves are drawn in the browser by `page.js`
from the numbers that the page holds, with plotly, which the page holds as well. `watch`
serves the same page and adds new numbers to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jopt.errors import ReportError
from jopt.reporting._communication import HEAD, NOTES, communication
from jopt.reporting._files import write_text
from jopt.reporting._run_data import RunData
from jopt.reporting._summary import (
    RESULTS,
    Figure,
    Group,
    differing,
    distinct_names,
    figures,
    group_by_seed,
    headline,
    result,
    spread,
)

LINES = 7  # in one plot, at most
# Nothing is ever fetched, whatever a run's name or text contains; `watch` asks itself.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src {connect}"
)
_MARK = "<meta name='generator' content='jopt'>"


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from the plain files there.

    Returns the page's path. Cost: about 5 MB, most of it the plotting library, so that
    the page opens anywhere. Fails: `ReportError` when the folder has no run.
    """
    path = folder / "report.html"
    write_text(path, render([RunData(folder)]))
    return path


def write_page(folders: Sequence[Path], path: Path) -> Path:
    """Writes one page of several runs; runs that differ in their seed form bands.

    Returns the page's path. Fails: `ReportError` when a folder has no run, or when
    `path` is there and was not written by jopt.
    """
    if path.exists() and _MARK not in path.read_text("utf-8", errors="replace")[:500]:
        raise ReportError(
            f"{path} exists and is not a report of jopt; it was left alone. Choose "
            "another name"
        )
    write_text(path, render([RunData(folder) for folder in folders]))
    return path


def render(runs: Sequence[RunData], *, live: bool = False) -> str:
    """The whole page as text.

    Args:
        runs: at least one.
        live: whether it asks the server that it came from for new records.
    """
    names = distinct_names(runs)
    groups = group_by_seed(runs)
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs"
    data = {
        "live": live,
        "groups": [group._asdict() for group in groups[:LINES]],
        "names": names,
        "item": " or ".join(sorted({run.item for run in runs})),
        "lossUnit": " or ".join(sorted({run.loss_unit for run in runs})),
        "runs": [run.since("") for run in runs],
    }
    parts = [
        f"<header><h1>{escape(title)}</h1><p class='quiet'>{_subtitle(runs)}</p>"
        "</header><main>",
        f"<div id='summary'>{summary(runs)}</div>",
        _left_out(groups),
        "<noscript><p>The plots need JavaScript; the rest is here.</p></noscript>",
        "<section id='loss'><h2>Loss</h2></section>",
        f"<section id='events'>{events(runs)}</section>",
        _PLOTS,
        communications(runs),
        _between(runs, groups),
        *_configs(runs, names),
        "</main>",
    ]
    parts += [
        f"<script type='application/json' id='data'>{_as_json(data)}</script>",
        f"<script>{_plotly()}</script>",
        f"<script>{_asset('page.js')}</script>",
    ]
    return page(title, "\n".join(parts), connect="'self'" if live else "'none'")


def page(title: str, body: str, *, connect: str = "'none'") -> str:
    """A whole page in the style of a report.

    Args:
        title: plain text.
        body: HTML.
        connect: where scripts on it may ask for data, as a content policy says it.
    """
    policy = _POLICY.format(connect=connect)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{_MARK}"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        # Without it a browser asks the server for /favicon.ico.
        "<link rel='icon' href='data:,'>"
        f"<title>{escape(title)}</title><style>{_asset('page.css')}</style></head>"
        f"<body>{body}</body></html>"
    )


def summary(runs: Sequence[RunData]) -> str:
    """Tiles for one run, tables for several."""
    if len(runs) == 1:
        return f"<div class='tiles'>{''.join(map(_tile, figures(runs[0])))}</div>"
    return _group_table(runs, group_by_seed(runs)) + _run_table(runs)


def events(runs: Sequence[RunData]) -> str:
    """What happened to the runs: the table that marks in the loss curve refer to."""
    alone = len(runs) == 1
    rows = [
        [*([] if alone else [name]), str(number), event.kind, event.text]
        for run, name in _named(runs, distinct_names(runs))
        for number, event in enumerate(run.history.events, start=1)
    ]
    if not rows:
        return "<p class='quiet'>No fault was met and no step was skipped.</p>"
    head = [*([] if alone else ["run"]), "mark", "what", "details"]
    return "<h2>What happened</h2>" + html_table(rows, head, classes="events")


def communications(runs: Sequence[RunData]) -> str:
    """What the replicas of runs with local updates sent each other."""
    alone = len(runs) == 1
    rows = [
        [*([] if alone else [name]), *row]
        for run, name in _named(runs, distinct_names(runs))
        for row in communication(run.folder)
    ]
    if not rows:
        return ""
    table = html_table(rows, [*([] if alone else ["run"]), *HEAD])
    title = "<section id='communication'><h2>Communication</h2>"
    return f"{title}<p class='quiet'>{escape(NOTES)}</p>{table}</section>"


_PLOTS = """
<section id="rates" hidden><h2>Learning rates</h2></section>
<section id="batch" hidden><h2>Batch size</h2></section>
<section id="layers" hidden><h2>Layers over time</h2></section>
<details id="more-layers" hidden><summary>Other statistics of layers</summary></details>
<section id="throughput"><h2>Throughput</h2></section>
<details id="more" hidden><summary>All other metrics</summary></details>
"""


def _subtitle(runs: Sequence[RunData]) -> str:
    names = sorted({run.config_name for run in runs})
    devices = sorted({", ".join(run.devices) for run in runs})
    return escape(f"config {', '.join(names)}, on {' and '.join(devices)}")


def _named(
    runs: Sequence[RunData], names: Sequence[str]
) -> Iterable[tuple[RunData, str]]:
    return zip(runs, names, strict=True)


def _tile(figure: Figure) -> str:
    label, value, note = (escape(text) for text in figure)
    return (
        f"<div class='tile'><span class='label'>{label}</span>"
        f"<span class='value'>{value}</span><span class='note'>{note}</span></div>"
    )


def _group_table(runs: Sequence[RunData], groups: Sequence[Group]) -> str:
    """Mean and spread of the results of runs that differ only in their seed."""
    rows = []
    for label, members in groups:
        found = spread(result(runs[index]) for index in members)
        seeds = ", ".join(str(runs[index].config.get("seed")) for index in members)
        rows.append([label, str(found.n), *map(_decimals, found[1:]), seeds])
    head = ["config", "n", "mean", "deviation", "lowest", "highest", "seeds"]
    metrics = " or ".join(sorted({RESULTS[headline(run)] for run in runs}))
    return (
        f"<h2>Result</h2><p class='quiet'>Validation {metrics}, the newest of each "
        "run. The deviation is between seeds.</p>" + html_table(rows, head)
    )


def _run_table(runs: Sequence[RunData]) -> str:
    rows = []
    for run, name in _named(runs, distinct_names(runs)):
        found = figures(run)
        rows.append([name, *(f"{value} {_in(note)}" for _, value, note in found)])
    labels: list[str] = max(([f.label for f in figures(run)] for run in runs), key=len)
    head = ["run", "result", *labels[1:]]
    return f"<details><summary>Each run</summary>{html_table(rows, head)}</details>"


def _in(note: str) -> str:
    return f"({note})" if note else ""


def _left_out(groups: Sequence[Group]) -> str:
    if len(groups) <= LINES:
        return ""
    rest = ", ".join(group.label for group in groups[LINES:])
    return (
        f"<p>The plots show the {LINES} configs with the lowest validation loss; "
        f"not drawn: {escape(rest)}.</p>"
    )


def _between(runs: Sequence[RunData], groups: Sequence[Group]) -> str:
    """The keys in which the configs on a page differ from each other."""
    configs = [runs[group.runs[0]].config for group in groups]
    keys = [key for key in differing(configs) if key != "seed"]
    if not keys:
        return ""
    rows = [
        [group.label, *(_show(config.get(key)) for key in keys)]
        for group, config in zip(groups, configs, strict=True)
    ]
    title = "<h2>Config: what differs between the runs</h2>"
    return title + html_table(rows, ["config", *keys])


def _configs(runs: Sequence[RunData], names: Sequence[str]) -> Iterable[str]:
    """Config, versions, command and sample of each run; folded where there are more."""
    if len(runs) == 1:
        yield _config(runs[0])
        return
    yield "<h2>Config and versions of each run</h2>"
    for run, name in _named(runs, names):
        title = f"<summary>{escape(name)}</summary>"
        yield f"<details class='run'>{title}{_config(run)}</details>"


def _config(run: RunData) -> str:
    return "".join(
        [
            _changed(run),
            f"<details><summary>The whole config ({len(run.config)} keys)</summary>",
            html_table([[key, _show(run.config[key])] for key in sorted(run.config)]),
            "</details>",
            "<h2>How to reproduce</h2>",
            f"<pre class='commands'>{escape(_recipe(run))}</pre>",
            html_table([*map(list, run.versions.items()), ["commit", run.commit]]),
            *_sample(run.status.record.get("sample")),
        ]
    )


def _changed(run: RunData) -> str:
    """The keys whose values are not the default ones."""
    if not run.defaults:
        return "<h2>Config</h2>"
    keys = differing([run.config, run.defaults])
    rows = [
        [key, _show(run.config[key]), _show(run.defaults.get(key, "no default"))]
        for key in keys
        if key in run.config
    ]
    title = "<h2>Config: what differs from the defaults</h2>"
    return title + html_table(rows, ["key", "here", "default"])


def _recipe(run: RunData) -> str:
    """The shell commands that train the same run again."""
    commit, dirty, _ = run.commit.partition("-dirty")
    lines = [f"git checkout {commit}"]
    if dirty:
        lines[0] += "  # there were changes that were not committed"
    installed = [
        f"{name}=={version}"
        for name, version in run.versions.items()
        if name != "jopt" and version != "not installed"
    ]
    return "\n".join(
        [*lines, f"pip install {' '.join(installed)}", shlex.join(run.command)]
    )


def _sample(text: str | None) -> list[str]:
    if not text:
        return []
    return ["<h2>A sampled passage</h2>", f"<pre>{escape(text)}</pre>"]


def html_table(
    rows: Sequence[Sequence[str]], head: Sequence[str] = (), *, classes: str = ""
) -> str:
    """A table that scrolls sideways by itself where it is too wide."""
    # A long key may break at its dots.
    names = (escape(name).replace(".", ".<wbr>") for name in head)
    top = "".join(f"<th scope='col'>{name}</th>" for name in names)
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f"<div class='scroll {classes}'><table>{top}<tbody>{body}</tbody></table></div>"
    )


def _show(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _as_json(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (resources.files("jopt.reporting") / name).read_text("utf-8")


def _plotly() -> str:
    # Imported where a page is written: a run does not wait for it.
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
