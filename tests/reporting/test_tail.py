"""`tail` goes on with the run that is started anew in the folder it follows."""

from __future__ import annotations

import shutil
import subprocess
import sys


def test_a_run_that_is_started_anew_begins_anew(held, folder):
    follower = subprocess.Popen(
        [sys.executable, "-m", "jopt", "tail", str(held.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    while "step  5/60" not in follower.stdout.readline():
        assert follower.poll() is None
    shutil.rmtree(held.path)
    anew = folder("held", **{"train.steps": 7})
    anew.start(0)
    anew.train(1, 7)
    anew.done()
    out, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    lines = out.splitlines()
    assert lines[0] == f"{held.path}: another run has begun here"
    assert lines[1] == "step 0/7  an attempt starts here"
    assert lines[-2].startswith("step 7/7  loss")
    assert lines[-1].startswith(f"{held.path}: done")
