"""Which optimizer for the matrices of a language model, each tuned with one budget.

python -m jopt sweep --config=configs/sweeps/optimizers_lm.py

Two rates (hidden matrices, the rest) of each method, 12 trials of `:micro`; the best of
each on five fresh seeds. `:smoke` is a check of seconds, not a result. `:full` ends on
`:tiny`. `python -m jopt study optimizers_lm` runs and compares it.
"""

from jopt.studies import compare_on_language

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


def get_config(arg=""):
    return compare_on_language(RATES, arg)
