"""Does the better geometry move with the batch? Spectral and sign steps at four sizes.

python -m jopt sweep --config=configs/sweeps/batch_geometries_lm.py

Muon and Signum with 2, 8, 32 and 128 sequences a step, at equal bytes. Two rates
(hidden matrices, the rest) of each of the eight tuned with 6 trials of `:micro`; the
best of each on three fresh seeds. `:smoke` is a check of seconds, not a result. `:full`
has five seeds. `python -m jopt study batch_geometries_lm` runs and compares it.
"""

from jopt.studies import compare_on_language, nested

# Wide enough for rates that go with the root of the batch.
RATES = {"muon": (0.001, 0.03), "signum": (0.00005, 0.002)}
BATCHES = (2, 8, 32, 128)
SEQUENCES = {"smoke": 512, "default": 4096, "full": 4096}


def get_config(arg=""):
    size = arg or "default"
    config = compare_on_language(RATES, "default" if size == "full" else size)
    tuned = config.arms
    config.arms = {}
    for batch in BATCHES:
        own = {"train.batch_size": batch, "train.steps": SEQUENCES[size] // batch}
        for method, arm in tuned.items():
            arm = arm.copy_and_resolve_references()
            arm.overrides = nested(own)
            config.arms[f"{method}_{batch}"] = arm
    config.trials = min(config.trials, 6)
    if size == "default":
        config.final.seeds = (1, 2, 3)
    return config
