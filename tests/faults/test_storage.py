"""Disks that fill up or turn read-only cost nothing that was saved."""

from __future__ import annotations

import subprocess
from pathlib import Path

SAVES = "--config.checkpoint.every_steps=20"
ALL = "--config.checkpoint.keep=100"


def test_a_full_disk(digits, unbroken, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_700_000))
    run = digits("run", SAVES, ALL, folder=small_disk)
    full = run.start()
    _, err = full.communicate(timeout=120)
    assert full.returncode == 1
    assert "No space left on device" in err
    assert "Traceback" not in err and "ERROR" not in err
    assert "the newest good step is" in err and "make room" in err
    saved = run.committed()
    assert saved

    filler.unlink()
    again = run.finish()
    assert f"resuming at step {saved[-1]} " in again.stdout
    assert run.outcome() == unbroken
    assert not run.unfinished()


def test_a_report_that_does_not_fit_costs_nothing(digits, unbroken, small_disk):
    run = digits("run", "--config.report.html=True", folder=small_disk)
    process = run.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "the report was not written: [Errno 28]" in err
    assert f"python -m jopt report {small_disk / 'run'} writes it" in err
    assert "Traceback" not in err and "done: " in out
    assert not list((small_disk / "run").glob("*report*"))


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_a_disk_that_turns_read_only(digits, unbroken, small_disk):
    run = digits("run", SAVES, folder=small_disk)
    process = run.start()
    run.wait_for(process, lambda: bool(run.committed()))
    # The log is open for writing, which keeps the system from remounting as a whole.
    subprocess.run(
        ["mount", "--bind", "-o", "ro", str(run.checkpoints), str(run.checkpoints)],
        check=True,
    )
    subprocess.run(["mount", "-o", "remount,bind,ro", str(run.checkpoints)], check=True)
    try:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "CheckpointError: step " in err
        assert "Read-only file system" in err
        assert "Traceback" not in err
        saved = run.committed()
    finally:
        subprocess.run(["umount", "--lazy", str(run.checkpoints)], check=True)
    again = run.finish()
    assert f"resuming at step {saved[-1]} " in again.stdout
    assert run.outcome() == unbroken


def test_a_workdir_on_a_read_only_disk(digits, small_disk):
    remount(small_disk, "ro")
    process = digits("run", SAVES, folder=small_disk).start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot be written: Read-only file system" in err
    assert "Traceback" not in err
