"""Trackers get what metrics.jsonl gets, and cannot harm a run."""

from __future__ import annotations

import http.server
import json
import re
import struct
import sys
import threading
from pathlib import Path

import pytest

from jopt.errors import ConfigError
from jopt.reporting import MetricsLog, mirror_faults, open_mirrors
from jopt.training._config import default_config
from jopt.training._config_checks import validate

TRACKER = """
def start(folder):
    file = (folder / "seen.txt").open("a")

    def send(record):
        line = (record["step"], record.get("train/loss"), "wall_secs" in record)
        print(*line, file=file)

    send.close = file.close
    return send

def breaks(folder):
    def send(record):
        if record["step"] == 2:
            raise ConnectionError("no network")
        (folder / f"{record['step']}.seen").touch()

    return send

def never(folder):
    raise KeyError("no login")

number = 3
"""


@pytest.fixture
def trackers(tmp_path, monkeypatch):
    (tmp_path / "my_trackers.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_trackers", None)


def write(folder, *records, tensorboard=False, tracker=None):
    mirrors = open_mirrors(folder, tensorboard=tensorboard, tracker=tracker)
    log = MetricsLog(folder / "metrics.jsonl", mirrors)
    for record in records:
        log.write(record)
    log.close()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


RECORDS = [{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0}, {"step": 3}]


def test_tracker_gets_every_record_and_is_closed(tmp_path, trackers):
    write(tmp_path, *RECORDS, tracker="my_trackers:start")
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert seen == ["1 3.0 True", "2 2.0 True", "3 None True"]


def test_the_documented_tracker(tmp_path, monkeypatch, capsys):
    """Sends each record to a server, which is a local one here."""
    text = (Path(__file__).parents[2] / "docs/reports.md").read_text()
    code = re.search(r"<!-- tracker -->\n```python\n(.*?)```", text, re.S).group(1)
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        code = code.replace("9000", str(server.server_port))
        (tmp_path / "documented_tracker.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        folder = tmp_path / "run"
        folder.mkdir()
        write(folder, *RECORDS, tracker="documented_tracker:start")
        server.shutdown()
        thread.join()
    assert capsys.readouterr().err == ""
    assert [(r["run"], r["step"]) for r in got] == [("run", s) for s in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "reason", "seen"),
    [
        ("breaks", "ConnectionError: no network", ["1.seen"]),
        ("never", "KeyError: 'no login'", []),
    ],
)
def test_a_tracker_that_fails_is_left_and_the_file_is_whole(
    tmp_path, trackers, capsys, name, reason, seen
):
    records = write(tmp_path, *RECORDS, tracker=f"my_trackers:{name}")
    assert [r["step"] for r in records] == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.glob("*.seen")) == seen
    said = capsys.readouterr().err
    assert said.count("report.tracker gets no more records") == 1
    assert reason in said


def scalars(folder):
    """(name, step, value) of every scalar in the event files, and where each purges."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found, purged = [], []
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[size + 16 :]
            if event.session_log.status == SessionLog.START:
                purged.append(event.step)
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found, purged


def test_tensorboard_has_the_scalars_and_takes_back_what_no_longer_stands(tmp_path):
    write(
        tmp_path,
        {"event": "start", "step": 0, "tokens": 0},
        {"step": 1, "train/loss": 3.0, "final": True, "note": "x"},
        {"step": 2, "train/loss": 2.5},
        {"event": "rollback", "step": 1, "from_step": 2, "cursor": 9},
        {"event": "start", "step": 1, "tokens": 0},
        {"step": 2, "train/loss": 2.0},
        tensorboard=True,
    )
    found, purged = scalars(tmp_path / "tensorboard")
    losses = [x for x in found if x[0] == "train/loss"]
    assert losses == [("train/loss", s, x) for s, x in ((1, 3.0), (2, 2.5), (2, 2.0))]
    assert {name for name, _, _ in found} == {"train/loss", "wall_secs"}
    assert purged[-1] == 2


def test_what_is_missing_is_said_before_a_run(trackers, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = default_config()
    config.optim.order = ("all",)
    config.report.tensorboard = True
    config.report.tracker = "my_trackers:strat"
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert "pip install 'jopt[tensorboard]'" in str(caught.value)
    assert "report.tracker 'my_trackers:strat' cannot be imported" in str(caught.value)
    (fault,) = mirror_faults(tensorboard=False, tracker="my_trackers:number")
    assert fault == "report.tracker 'my_trackers:number' is not a function"
