"""The learning rates in the records are those that the schedule gives."""

import pytest

from jopt.optimizers import schedule_from_config
from jopt.training._rates import LearningRates
from jopt.training.presets import language_model, rule


@pytest.mark.parametrize("name", ["constant", "cosine", "warmup_stable_decay"])
def test_rates_follow_the_schedule(name):
    config = language_model("micro")
    config.train.steps = 20
    config.train.schedule.name = name
    config.train.schedule.warmup = 0.2
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = rule(
        "kernel", "lion_muon", 0.02, sign_learning_rate=0.001
    )
    config.optim.rules.rest = rule(".*", "adamw", 0.003)
    rates = LearningRates(config)
    schedule = schedule_from_config(config.train)
    for update in (0, 1, 7, 15, 19):
        factor = float(schedule(update))
        assert rates.at(update) == {
            "optim/matrix/learning_rate": pytest.approx(0.02 * factor),
            "optim/matrix/sign_learning_rate": pytest.approx(0.001 * factor),
            "optim/rest/learning_rate": pytest.approx(0.003 * factor),
        }
