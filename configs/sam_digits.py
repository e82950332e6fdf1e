"""A perceptron on 8 x 8 digits: a member of the SAM family around Muon and AdamW.

python train.py --config=configs/sam_digits.py:gsam

Members: sam asam gsam wsam looksam ae_sam esam f_sam functional_sam, and `spectral` for
SAM in the ball of Muon; `base` perturbs nothing. `docs/sharpness_aware.md` says what
they are.
"""

from jopt.training import presets
from jopt.training.methods import method_rule

# SAM in other balls than its own.
BALLS = {"spectral": "spectral", "linf": "linf", "preconditioned": "preconditioned"}


def get_config(arg=""):
    member, _, size = (arg or "sam").partition(",")
    config = presets.digits(size)
    config.optim.order = ("matrix", "rest")
    # The rates that were tuned for Muon alone.
    config.optim.rules.matrix = method_rule(
        "muon", r"layers/.*/kernel", {"muon": 0.0259}
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.00968)
    if member in BALLS:
        config.oracle.update(name="sam", norm=BALLS[member])
    elif member != "base":
        config.oracle.name = member
    return config
