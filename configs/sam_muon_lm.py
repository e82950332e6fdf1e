"""Byte language model on 38 plays: Muon, with SAM in the spectral ball of its steps.

python train.py --config=configs/sam_muon_lm.py:micro

62 s on a busy core with JAX 0.12, against 41 s without the perturbation. Validation
2.446 bits/byte, against 2.335 with a radius of 0 and 2.334 by configs/muon_lm.py (seed
0, one run each): at this size and these rates the perturbation costs accuracy, and no
other radius was tried. `docs/sharpness_aware.md` has the family.
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    # The rules of configs/muon_lm.py, whose rates were tuned without a perturbation.
    config.optim.rules.matrix = presets.rule(
        r"blocks/.*/kernel",
        "muon",
        0.007,
        beta=0.9,
        weight_decay=0.0,
        compute_dtype="auto",
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    # Matrices of Muon climb by rho in operator norm, each other parameter by as much in
    # the Euclidean one.
    config.oracle.update(name="sam", norm="spectral", rho=0.015)
    return config
