"""What is said and recorded when damaged checkpoints stood in the way."""

from __future__ import annotations

from jopt.reporting import Console, MetricsLog
from jopt.training._checkpoints import Restored
from jopt.training._plan import Plan


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
