"""Byte language model on 38 plays: Muon, with SAM in the spectral ball of its steps.

python train.py --config=configs/sam_muon_lm.py:micro
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
