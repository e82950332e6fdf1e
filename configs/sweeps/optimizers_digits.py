"""Which optimizer for the matrices of a perceptron, each tuned with one budget.

python -m jopt sweep --config=configs/sweeps/optimizers_digits.py

Two rates (hidden kernels, the rest) of each method, 12 trials on 8 x 8 digits; the best
of each on five fresh seeds. `:smoke` is a check of seconds, not a result.
`python -m jopt study optimizers_digits` runs and compares it.
"""

from jopt.studies import compare_methods

MUON = (0.001, 0.05)  # Updates of RMS 0.2.
SIGN = (0.0001, 0.005)  # Updates of RMS 1.
RATES = {
    "adamw": (0.0003, 0.015),
    "signum": SIGN,
    "lion": SIGN,
    "muon": MUON,
    "normuon": MUON,
    "adamuon": MUON,
    "soap": (0.0003, 0.015),
    "soap_muon": MUON,
    "lion_muon": MUON,
    "scion": (0.0001, 0.005),
    "dion2": (0.002, 0.1),
    "muon_hyperball": (0.002, 0.1),
    "recipe": MUON,
}


def get_config(arg=""):
    config = compare_methods(
        "configs/methods_digits.py:{method},micro", RATES, (0.001, 0.05), arg
    )
    config.metric = "eval/loss"
    if arg == "smoke":
        config.overrides.train = {"steps": 30}
    else:
        config.final.overrides.eval = {"every_steps": 25}
    return config
