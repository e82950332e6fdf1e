"""`python -m jopt watch RUN...`: the report of runs that are going on, in a browser."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from jopt.errors import ReportError, print_error
from jopt.reporting._page import events, render, summary
from jopt.reporting._run_data import RunData

HOST = "127.0.0.1"
USAGE = "usage: python -m jopt watch RUN... [--port=0] [--once]"


def main(argv: Sequence[str]) -> int:
    """Serves the page of the runs to this machine alone until Ctrl-C, which gives 0.

    `--port=0` takes a free port. `--once` hands out the page as it is now, one time,
    and leaves. Returns 2 when a folder has no run or the port is taken.
    """
    try:
        names, port, once = _parsed(argv)
    except ValueError:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        runs = [RunData(Path(name)) for name in names]
        server = WatchServer(runs, port, once=once)
    except (ReportError, OSError, OverflowError) as error:
        print_error(error)
        return 2
    with server:
        end = "" if once else " (Ctrl-C ends it)"
        print(f"http://{HOST}:{server.server_port}{end}", flush=True)
        _serve(server)
    return 0


def _parsed(argv: Sequence[str]) -> tuple[list[str], int, bool]:
    names = [word for word in argv if not word.startswith("-")]
    ports = [w.removeprefix("--port=") for w in argv if w.startswith("--port=")]
    once = argv.count("--once")
    if not names or len(names) + len(ports) + once != len(argv):
        raise ValueError
    return names, int(ports[-1]) if ports else 0, bool(once)


def _serve(server: WatchServer) -> None:
    """Until Ctrl-C, whichever signal a terminal or a script sends for it."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    # A shell starts background commands with SIGINT ignored; it is meant here.
    before = signal.signal(signal.SIGINT, leave)
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)


class WatchServer(ThreadingHTTPServer):
    """Two addresses: `/`, the page, and `/data`, what has come since a position."""

    daemon_threads = True

    def __init__(self, runs: Sequence[RunData], port: int, *, once: bool) -> None:
        super().__init__((HOST, port), _Handler)
        self._runs = runs
        self._lock = threading.Lock()
        self.once = once

    def page(self) -> str:
        """The whole page, as it is now."""
        with self._lock:
            self._refresh()
            return render(self._runs, live=not self.once)

    def news(self, positions: Sequence[str]) -> str:
        """What a page that has the records up to `positions` does not have, as JSON.

        Fails: `ReportError` when the positions are not one for each run.
        """
        if len(positions) != len(self._runs):
            raise ReportError(
                f"expected {len(self._runs)} positions, found {len(positions)}; "
                "load the page again"
            )
        with self._lock:
            self._refresh()
            found = zip(self._runs, positions, strict=True)
            return json.dumps(
                {
                    "alive": any(run.status.alive for run in self._runs),
                    "summary": summary(self._runs),
                    "events": events(self._runs),
                    "runs": [run.since(position) for run, position in found],
                },
                allow_nan=False,
            )

    def _refresh(self) -> None:
        for run in self._runs:
            run.refresh()


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # A page of another site may lead its own host name to this address.
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            self._answer(403, "text/plain", f"only for {HOST}")
            return
        address = urlsplit(self.path)
        try:
            if address.path == "/":
                self._answer(200, "text/html", self.server.page())
                if self.server.once:
                    # Its own thread: shutdown waits until the server has left its loop.
                    threading.Thread(target=self.server.shutdown).start()
            elif address.path == "/data":
                at = parse_qs(address.query).get("at", [""])[0].split(",")
                self._answer(200, "application/json", self.server.news(at))
            else:
                self._answer(404, "text/plain", "there is / and /data")
        except ReportError as error:
            self._answer(500, "text/plain", str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has left

    def _answer(self, code: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A request each second is nothing to print."""
