"""What does a gradient buy? SGD, the SAM family and SA-SAM at equal evaluations.

python -m jopt sweep --config=configs/sweeps/sharpness_cost_digits.py

A perceptron on 8 x 8 digits, 600 gradients for every run: 600 steps of SGD, 500 of
LookSAM, 300 of SAM, ASAM, Delta-SGD and SA-SAM with two gradients a step, 200 of SA-SAM
with three. 6 trials of each and five fresh seeds of the best. `:smoke` is a check of
seconds, not a result. `python -m jopt study sharpness_cost_digits` runs and compares.
"""

from jopt.studies import compare_cost


def get_config(arg=""):
    return compare_cost("mlp", "digits", 600, arg)
