"""Muon, AdamW and Signum on the language model, each tuned with the same budget.

python -m jopt sweep --config=configs/sweeps/optimizers_lm.py

Two rates (hidden matrices, the rest) of each optimizer, 8 trials of `:micro`; the best
of each on three fresh seeds. `:smoke` is a check of seconds, not a result. `:full` ends
on `:tiny` with five seeds. `python -m jopt study optimizers_lm` runs and compares it.
"""

from jopt.studies import arm, default_sweep, log_uniform, nested

# The rate of the hidden matrices; each best of eight trials lay inside.
MATRIX_RATES = {
    "muon": log_uniform(0.002, 0.02),
    "adamw": log_uniform(0.0004, 0.004),
    "signum": log_uniform(0.0001, 0.001),
}
# A model and a run of seconds.
SMOKE = {
    "model.num_layers": 1,
    "model.embed_dim": 32,
    "model.num_heads": 2,
    "data.seq_len": 32,
    "train.steps": 30,
    "eval.batch_size": 512,
    "report.html": False,
}


def get_config(arg=""):
    size = arg or "default"
    sizes = {
        "smoke": {"trials": 2, "final": "", "seeds": (1,)},
        "default": {"trials": 8, "final": "", "seeds": (1, 2, 3)},
        "full": {"trials": 8, "final": "tiny", "seeds": (1, 2, 3, 4, 5)},
    }
    if size not in sizes:
        raise ValueError(f"unknown size {size!r}; known: {', '.join(sizes)}")
    config = default_sweep()
    for name, rate in MATRIX_RATES.items():
        config.arms[name] = arm(
            f"configs/{name}_lm.py:micro",
            {
                "optim.rules.matrix.learning_rate": rate,
                "optim.rules.rest.learning_rate": log_uniform(0.003, 0.03),
            },
        )
    config.trials = sizes[size]["trials"]
    config.final.size = sizes[size]["final"]
    config.final.seeds = sizes[size]["seeds"]
    # Runs of seconds need no checkpoints; those of the full size keep their own.
    config.overrides = nested({"eval.sample_tokens": 0, "checkpoint.every_steps": 0})
    if size == "smoke":
        config.overrides = nested({**SMOKE, "eval.sample_tokens": 0})
    if size == "full":
        config.final.overrides = nested({"checkpoint.every_steps": 1000})
    else:
        # Steps to a target are told apart to so many steps.
        config.final.overrides = nested({"eval.every_steps": 50})
    return config
