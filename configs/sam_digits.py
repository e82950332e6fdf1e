"""A perceptron on 8 x 8 digits: a member of the SAM family around Muon and AdamW.

python train.py --config=configs/sam_digits.py:gsam

10 s on a busy core. Mean validation loss over seeds 0 to 2, at the rates that were
tuned for Muon alone (180 examples; a seed moves a loss by .03): base .051, gsam .053,
asam .056, functional_sam .065, sam .067, ae_sam .067, f_sam .067, esam .068, wsam .069,
looksam .074, spectral .092. None is below the base here, and no radius was tuned.

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
