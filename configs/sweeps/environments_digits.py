"""Algorithms over environments on coloured digits, each tuned with one budget.

python -m jopt sweep --config=configs/sweeps/environments_digits.py

The rate and the settings of each algorithm, 20 trials; the best of each by its loss on
the parts held out of training environments, never by the test, on three fresh seeds.
`jopt.studies.environment_runs.run_of` makes of any job what `jopt.studies.selection`
reads, which chooses steps as well. `:smoke` is a check of seconds, not a result.
"""

from jopt.studies import algorithm_space, arm, default_sweep, log_uniform

ALGORITHMS = ("erm", "irm", "vrex", "group_dro")
STEPS = 600


def get_config(arg=""):
    steps = 20 if arg == "smoke" else STEPS
    config = default_sweep()
    config.metric = "eval/loss"
    config.trials, config.seeds, config.final.seeds = 20, (0,), (1, 2, 3)
    if arg == "smoke":
        config.trials, config.final.seeds = 1, ()
    config.overrides.train = {"steps": steps}
    for name in ALGORITHMS:
        space = algorithm_space(name, steps, environments=2)
        config.arms[name] = arm(
            f"configs/environments.py:{name}",
            {
                "optim.rules.all.learning_rate": log_uniform(1e-4, 1e-2),
                **{f"objective.algorithm.{key}": x for key, x in space.items()},
            },
        )
    return config
