"""A perceptron on 8 x 8 digits: any published method on the matrices, AdamW beside.

python train.py --config=configs/methods_digits.py:normuon

5 s on an idle core. `docs/optimizers.md` lists the methods.
"""

from jopt.training import presets
from jopt.training.methods import method_rule

# Learning rate of the hidden kernels.
RATES = {
    "adamw": 0.003,
    "sign_sgd": 0.001,
    "signum": 0.001,
    "lion": 0.001,
    "sign_muon": 0.01,
    "lion_muon": 0.01,
    "spec_sign": 0.01,
    "spec_sign_directional": 0.01,
    "spec_sign_random": 0.01,
    "muon": 0.01,
    "muon_hyperball": 0.02,
    "normuon": 0.01,
    "adamuon": 0.01,
    "namo": 0.01,
    "muon2": 0.01,
    "aurora": 0.01,
    "scion": 0.001,
    "spec_gd": 0.1,
    "polar_grad": 0.1,
    "dion": 0.02,
    "dion2": 0.02,
    "shampoo": 0.01,
    "soap": 0.003,
    "soap_muon": 0.01,
    "recipe": 0.01,
}


def get_config(arg=""):
    method, _, size = (arg or "muon").partition(",")
    config = presets.digits(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = method_rule(method, r"layers/.*/kernel", RATES)
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.01)
    return config
