"""Kill -9 at any moment, a save included: nothing committed is lost, ever.

`--nightly` injects 500 kills instead of a few. The tally is in the summary.
"""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import time

FLAGS = (
    # Much of the time goes into saving, so many kills fall into a save.
    "--config.checkpoint.every_steps=5",
    "--config.eval.every_steps=50",
)


@dataclasses.dataclass
class Tally:
    """What was injected, and what came of it."""

    kills: int = 0
    during_start: int = 0
    during_save: int = 0
    steps: int = 0  # committed by processes that were killed
    lost: int = 0
    wrong: int = 0
    runs: int = 0


def test_kill_9_at_random_moments(shard, digits, unbroken, nightly, record_property):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    wanted = 250 if nightly else 3
    tally = Tally()
    while tally.kills < wanted:
        run = digits(f"run-{tally.runs}", *FLAGS)
        tally.runs += 1
        while tally.kills < wanted and kill_once(run, chance, tally):
            pass
        run.finish()
        tally.wrong += run.outcome() != unbroken
    record_property("tally", f"seed {seed}, {tally}")
    assert (tally.lost, tally.wrong) == (0, 0), f"seed {seed}: {tally}"


def kill_once(run, chance: random.Random, tally: Tally) -> bool:
    """Starts the run and kills it somewhere; False where it came to its end first."""
    before = max(run.committed(), default=0)
    unfinished, logged = run.unfinished(), size_of(run)
    process = run.start()
    starting = chance.random() < 0.2
    if starting:
        time.sleep(chance.uniform(0, 3))  # imports, restore and compilation
    else:
        wait_for_a_step(run, process, logged)
        time.sleep(chance.uniform(0, 1))
    process.kill()
    out, _ = process.communicate()
    if process.returncode == 0:
        return False
    tally.kills += 1
    tally.during_start += starting
    tally.during_save += bool(run.unfinished() - unfinished)
    resumed = re.search(r"resuming at step (\d+) of", out)
    if resumed:
        tally.lost += int(resumed[1]) != before
    elif "starting of" in out:
        tally.lost += before != 0
    after = max(run.committed(), default=0)
    tally.lost += after < before
    tally.steps += after - before
    return True


def size_of(run) -> int:
    path = run.path / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def wait_for_a_step(run, process: subprocess.Popen, logged: int) -> None:
    """Returns once this process has logged a step, or has ended."""
    limit = time.monotonic() + 120
    while process.poll() is None:
        if size_of(run) > logged:
            new = (run.path / "metrics.jsonl").read_bytes()[logged:]
            if b"train/loss" in new:
                return
        assert time.monotonic() < limit, "the process did not get there in time"
        time.sleep(0.005)
