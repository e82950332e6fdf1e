"""Does a perturbation in the spectral ball help Muon on a language model?

python -m jopt sweep --config=configs/sweeps/sam_spectral_lm.py

Muon alone, with SAM in the Euclidean and in the spectral ball, and with Functional-SAM:
8 trials of `:micro` over two rates and the radius, the best of each on five fresh
seeds, at equal steps: a step of all but the first takes two gradients, so Muon alone
with twice the steps is the fifth side. `:smoke` is a check of seconds, not a result.
`python -m jopt study sam_spectral_lm` runs and compares it.
"""

from jopt.studies import arm, compare_on_language, log_uniform

RATES = {
    "optim.rules.matrix.learning_rate": log_uniform(0.002, 0.02),
    "optim.rules.rest.learning_rate": log_uniform(0.003, 0.03),
}
MEMBERS = {
    "sam": ({"oracle.norm": "l2"}, (0.005, 0.5)),
    "spectral_sam": ({"oracle.norm": "spectral"}, (0.0005, 0.05)),
    "functional_sam": (
        {"oracle.name": "functional_sam", "oracle.norm": "l2"},
        (0.005, 0.5),
    ),
}


def get_config(arg=""):
    config = compare_on_language({"muon": (0.002, 0.02)}, arg)
    if arg != "smoke":
        config.trials = 8
    for name, (overrides, radii) in MEMBERS.items():
        config.arms[name] = arm(
            "configs/sam_muon_lm.py:micro",
            {**RATES, "oracle.rho": log_uniform(*radii)},
            overrides,
        )
    steps = 60 if arg == "smoke" else 1000
    config.arms.muon_twice = arm(
        "configs/muon_lm.py:micro", RATES, {"train.steps": steps}
    )
    return config
