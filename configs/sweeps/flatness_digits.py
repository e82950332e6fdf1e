"""Who finds flat minima without tuning? SGD, SAM, ASAM, SA-SAM and Delta-SGD.

python -m jopt sweep --config=configs/sweeps/flatness_digits.py

A perceptron on 8 x 8 digits, 6 trials of each method and five fresh seeds of the best;
the first step size of SA-SAM and Delta-SGD is drawn from a range of 1000. `:smoke` is a
check of seconds, not a result. `python -m jopt study flatness_digits` runs and compares
it.
"""

from jopt.studies import compare_flatness


def get_config(arg=""):
    return compare_flatness("mlp", "digits", arg)
