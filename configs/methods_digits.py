"""A perceptron on 8 x 8 digits: any published method on the matrices, AdamW beside.

python train.py --config=configs/methods_digits.py:normuon

5 s on an idle core. `docs/optimizers.md` lists the methods, and
`docs/results/optimizers_digits` what they reach: a validation loss of .045 (Muon on a
hyperball) to .135 (Dion2), five seeds each, tuned in twelve trials.
"""

from jopt.training import presets
from jopt.training.methods import method_rule

# Learning rate of the hidden kernels.
# Those with a rate of the rest below are tuned, the others what their size suggests.
RATES = {
    "adamw": 0.00994,
    "sign_sgd": 0.001,
    "signum": 0.00423,
    "lion": 0.000367,
    "sign_muon": 0.01,
    "lion_muon": 0.00975,
    "spec_sign": 0.01,
    "spec_sign_directional": 0.01,
    "spec_sign_unit_rms": 0.01,
    "spec_sign_random": 0.01,
    "muon": 0.0259,
    "muon_fast3": 0.0259,
    "muon_jordan": 0.0259,
    "muon_hyperball": 0.0662,
    "normuon": 0.0423,
    "adamuon": 0.0159,
    "namo": 0.01,
    "muon2": 0.01,
    "aurora": 0.01,
    "scion": 0.00125,
    "spec_gd": 0.1,
    "polar_grad": 0.1,
    "dion": 0.02,
    "dion2": 0.0519,
    "shampoo": 0.01,
    "soap": 0.00994,
    "soap_muon": 0.0159,
    "recipe": 0.0423,
}

REST = {
    "adamuon": 0.00627,
    "adamw": 0.0267,
    "dion2": 0.00968,
    "lion": 0.0356,
    "lion_muon": 0.0149,
    "muon": 0.00968,
    "muon_fast3": 0.00968,
    "muon_jordan": 0.00968,
    "muon_hyperball": 0.0267,
    "normuon": 0.0017,
    "recipe": 0.0017,
    "scion": 0.00263,
    "signum": 0.0017,
    "soap": 0.0267,
    "soap_muon": 0.00627,
}


def get_config(arg=""):
    method, _, size = (arg or "muon").partition(",")
    config = presets.digits(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = method_rule(method, r"layers/.*/kernel", RATES)
    config.optim.rules.rest = presets.rule(r".*", "adamw", REST.get(method, 0.01))
    return config
