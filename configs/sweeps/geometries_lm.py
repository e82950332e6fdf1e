"""Does a choice of geometry by evidence pay? SpecSign against what it chooses from.

python -m jopt sweep --config=configs/sweeps/geometries_lm.py

Two rates (hidden matrices, the rest) of each method, 8 trials of `:micro`; the best of
each on five fresh seeds. `:smoke` is a check of seconds, not a result. `:full` ends on
`:tiny`. `python -m jopt study geometries_lm` runs and compares it.
"""

from jopt.studies import compare_on_language

MUON = (0.002, 0.02)  # Updates of RMS 0.2.
RATES = {
    "spec_sign": MUON,
    "spec_sign_directional": MUON,
    "spec_sign_unit_rms": MUON,
    "spec_sign_random": MUON,
    "muon": MUON,
    "signum": (0.0001, 0.001),
    "sign_muon": MUON,
    "adamw": (0.0004, 0.004),
}


def get_config(arg=""):
    config = compare_on_language(RATES, arg)
    config.trials = min(config.trials, 8)
    return config
