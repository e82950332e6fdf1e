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
    process = run.start()
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 3))  # imports, restore and compilation
        tally.during_start += 1
    else:
        wait_for_a_step(run, process, before)
        time.sleep(chance.uniform(0, 1))
    process.kill()
    out, _ = process.communicate()
    if process.returncode == 0:
        return False
    tally.kills += 1
    tally.during_save += run.saving()
    resumed = re.search(r"resuming at step (\d+) of", out)
    if resumed:
        tally.lost += int(resumed[1]) != before
    elif "starting of" in out:
        tally.lost += before != 0
    tally.lost += max(run.committed(), default=0) < before
    return True


def wait_for_a_step(run, process: subprocess.Popen, before: int) -> None:
    limit = time.monotonic() + 120
    while process.poll() is None and run.last_step() <= before:
        assert time.monotonic() < limit, "the process did not get there in time"
        time.sleep(0.005)
