"""Does a batch that follows its noise scale pay? Against a fixed one, at equal bytes.

python -m jopt sweep --config=configs/sweeps/adaptive_against_fixed_lm.py

Muon with both: two rates (hidden matrices, the rest) of each tuned with 8 trials of
`:micro`; the best of each on five fresh seeds. `:smoke` is a check of seconds, not a
result. `:full` ends on `:tiny`. `python -m jopt study adaptive_against_fixed_lm` runs
and compares it.
"""

from jopt.studies import compare_on_language

ARMS = {"fixed": "configs/muon_lm.py", "adaptive": "configs/adaptive_batch_lm.py"}
RATES = (0.002, 0.02)


def get_config(arg=""):
    config = compare_on_language(dict.fromkeys(ARMS, RATES), arg)
    config.trials = min(config.trials, 8)
    for name, file in ARMS.items():
        config.arms[name].train_config = f"{file}:micro"
    return config
