"""Which optimizer for the matrices of a language model, each tuned with one budget.

python -m jopt sweep --config=configs/sweeps/optimizers_lm.py

Two rates (hidden matrices, the rest) of each method, 12 trials of `:micro`; the best of
each on five fresh seeds. `:smoke` is a check of seconds, not a result. `:full` ends on
`:tiny`. `python -m jopt study optimizers_lm` runs and compares it.
"""

from jopt.studies import compare_methods

MUON = (0.002, 0.02)  # Updates of RMS 0.2.
SIGN = (0.0001, 0.001)  # Updates of RMS 1.
RATES = {
    "adamw": (0.0004, 0.004),
    "signum": SIGN,
    "lion": SIGN,
    "muon": MUON,
    "normuon": MUON,
    "adamuon": MUON,
    "soap": (0.0008, 0.008),
    "soap_muon": MUON,
    "lion_muon": MUON,
    "scion": (0.0001, 0.001),
    "dion2": (0.005, 0.05),
    "muon_hyperball": (0.003, 0.03),
    "recipe": MUON,
}
# A model and a run of seconds.
SMOKE = {
    "model": {"num_layers": 1, "embed_dim": 32, "num_heads": 2},
    "data": {"seq_len": 32},
    "train": {"steps": 30},
}


def get_config(arg=""):
    config = compare_methods(
        "configs/methods_lm.py:{method},micro", RATES, (0.003, 0.03), arg
    )
    config.overrides.eval = {"sample_tokens": 0}
    if arg == "smoke":
        config.overrides.update(SMOKE)
        config.overrides.eval.batch_size = 512
    elif arg == "full":
        config.final.size = "tiny"
        config.final.overrides.checkpoint = {"every_steps": 1000}
    else:
        # Steps to a target are told apart to so many steps.
        config.final.overrides.eval = {"every_steps": 50}
    return config
