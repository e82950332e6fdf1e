"""Back to an earlier state: past damaged checkpoints, or past data that led nowhere."""

from __future__ import annotations

import jax
import numpy as np

from jopt.reporting import Console, MetricsLog
from jopt.training._checkpoints import Checkpoints, Restored
from jopt.training._plan import Plan
from jopt.training._state import TrainState


def report_damage(
    restored: Restored | None, plan: Plan, log: MetricsLog, console: Console
) -> None:
    """Tells the user and the reports which newer steps were set aside, if any."""
    if restored is None or not restored.damaged:
        return
    repeated = max(restored.damaged) - restored.step
    console.say(
        "\n".join(
            [
                *restored.damaged.values(),
                f"set aside; {repeated} steps are repeated from step {restored.step}",
            ]
        )
    )
    log.write(
        {
            "event": "damaged",
            "step": restored.step,
            "tokens": plan.seen(restored.state),
            "damaged_steps": sorted(restored.damaged),
        }
    )


def last_good(
    state: TrainState,
    plan: Plan,
    checkpoints: Checkpoints,
    log: MetricsLog,
    console: Console,
    *,
    strict: bool,
) -> TrainState:
    """The last good state, with the cursor past the data that led to `state`.

    `state` is gone afterwards.
    """
    here, cursor = int(state.step), int(state.cursor)
    for leaf in jax.tree.leaves(state):
        leaf.delete()  # so that memory need not hold two states
    found = checkpoints.restore_newest(plan.shapes, strict=strict)
    report_damage(found, plan, log, console)
    good = plan.init() if found is None else found.state
    back = int(good.step)
    log.write(
        {
            "event": "rollback",
            "step": back,
            "tokens": plan.seen(good),
            "from_step": here,
            "cursor": cursor,
        }
    )
    console.say(
        f"step {here}: the last steps were not finite and changed nothing; going "
        f"on from step {back} with the data after example {cursor}"
    )
    past = np.asarray(cursor, good.cursor.dtype)
    return good._replace(cursor=jax.device_put(past, good.cursor.sharding))
