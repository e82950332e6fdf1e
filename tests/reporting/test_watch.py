"""`watch` serves the report of runs that go on, with only what is new."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from jopt.__main__ import main


@pytest.fixture
def watch():
    """Starts the command; gives its process and address."""
    with contextlib.ExitStack() as stack:

        def start(*argv):
            process = subprocess.Popen(
                [sys.executable, "-m", "jopt", "watch", *map(str, argv)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, process.communicate()
            return process, found.group()

        yield start


def get(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def news(address, *positions):
    return json.loads(get(f"{address}/data?at={','.join(positions)}"))


def test_serves_runs_of_others_and_only_what_is_new(watch, held, plain):
    finished = plain("finished")
    process, address = watch(held.path, finished.path)
    page = get(address)
    assert "2 runs" in page and '"live":true' in page
    first = news(address, "", "")
    assert first["alive"] is True
    running, done = first["runs"]
    assert running["curves"]["train/loss"]["step"] == [1, 2, 3, 4, 5]
    assert done["curves"]["train/loss"]["step"] == list(range(1, 61))

    held.append('{"step": 6, "train/lo')  # a writer in the middle of a line
    second = news(address, running["at"], done["at"])
    assert [run["curves"] for run in second["runs"]] == [{}, {}]
    held.append("\n")
    held.train(6, 7)
    third = news(address, running["at"], done["at"])
    assert third["runs"][0]["curves"]["train/loss"]["step"] == [6, 7]
    assert third["runs"][1]["curves"] == {}

    held.status("done", step=7, headline="2.0 bits")
    assert news(address, running["at"], done["at"])["alive"] is False
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_a_run_that_is_started_anew_begins_anew(watch, held, folder, plain):
    finished = plain("finished")
    _, address = watch(held.path, finished.path)
    before, done = news(address, "", "")["runs"]
    shutil.rmtree(held.path)
    # Nothing new is there yet, so what was there stays.
    assert news(address, before["at"], done["at"])["runs"][0]["run"] == before["run"]

    anew = folder("held", **{"train.steps": 4000})
    anew.start(0)
    anew.train(1, 7)  # more than there were, perhaps in a file of the same number
    first, other = news(address, before["at"], done["at"])["runs"]
    assert first["run"] != before["run"] and other["run"] == done["run"]
    assert first["after"] == -1
    # A run of 4,000 steps has a point for each four.
    assert first["curves"]["train/loss"]["step"] == [4, 7]
    assert first["events"] == []
    assert "of 4,000" in get(address)


def test_records_that_are_cut_begin_anew(watch, held):
    _, address = watch(held.path)
    (before,) = news(address, "")["runs"]
    held.write("metrics.jsonl", "")
    held.train(1, 2)
    (after,) = news(address, before["at"])["runs"]
    assert after["after"] == -1
    assert after["curves"]["train/loss"]["step"] == [1, 2]


def test_a_killed_run_is_shown_as_lost(watch, folder):
    run = folder()
    run.start(0)
    run.train(1, 5)
    run.status("running", step=5)
    (run.path / ".lock").touch()
    _, address = watch(run.path)
    found = news(address, "")
    assert found["alive"] is False
    assert "lost" in found["summary"] and "resumes it" in found["summary"]


def test_once_hands_out_the_page_and_leaves(watch, plain):
    process, address = watch(plain().path, "--once")
    assert '"live":false' in get(address)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_answers_this_machine_alone(watch, plain):
    _, address = watch(plain().path)
    for path, host, code in (
        ("/", "evil.example:80", 403),
        ("/data?at=", "evil.example", 403),
        ("/etc/passwd", "127.0.0.1:1", 404),
        ("/data?at=0.1,0.1,0.1", "localhost:1", 500),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(f"{address}{path}", Host=host)
        assert caught.value.code == code
        caught.value.close()
    port = int(address.rpartition(":")[2])
    # Another address of this same machine: a server on all of them would answer.
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=2)


def test_what_cannot_be_watched_is_said(plain, tmp_path, capsys):
    run = str(plain().path)
    for wrong in ([], ["--once"], [run, "--prot=1"], [run, "--port=x"]):
        assert main(["watch", *wrong]) == 2
        assert "usage: python -m jopt watch" in capsys.readouterr().err
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not a readable run folder" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["watch", run, f"--port={taken.getsockname()[1]}"]) == 2
    assert "in use" in capsys.readouterr().err
    assert main(["watch", run, "--port=70000"]) == 2
    assert "port" in capsys.readouterr().err
