"""How near to the polar factor does Muon have to be? Three, four and five stages.

python -m jopt sweep --config=configs/sweeps/polar_stages_lm.py

The default of four stages, three (`polar_express_fast3`) and the five that Muon was
published with (`jordan`): two rates (hidden matrices, the rest) of each, 8 trials of
`:micro`; the best of each on twelve fresh seeds. `:smoke` is a check of seconds, not a
result. `python -m jopt study polar_stages_lm` runs and compares it.
"""

from jopt.studies import compare_on_language

MUON = (0.003, 0.015)  # Updates of RMS 0.2.


def get_config(arg=""):
    methods = ("muon", "muon_fast3", "muon_jordan")
    config = compare_on_language(dict.fromkeys(methods, MUON), arg)
    if arg != "smoke":
        config.trials, config.final.seeds = 8, tuple(range(1, 13))
    return config
