"""Byte language model on 38 plays: any published method on the matrices, AdamW beside.

python train.py --config=configs/methods_lm.py:normuon
python train.py --config=configs/methods_lm.py:soap_muon,micro

METHOD or METHOD,SIZE; `docs/optimizers.md` lists the methods. `python -m jopt study
optimizers_lm` found the rates of thirteen of them with twelve trials each on `:micro`,
where they reach, bits/byte over five seeds (`docs/results/optimizers_lm`): soap_muon
2.313, recipe 2.316, normuon 2.318, muon 2.319, scion 2.357, muon_hyperball 2.358,
lion_muon 2.410, dion2 2.502, soap 2.534, adamw 2.536, signum 2.583, adamuon 2.611
(unstable), lion 2.696. The rates of the others are what their update size suggests,
untuned.
"""

from jopt.training import presets
from jopt.training.methods import method_rule

# Learning rate of the matrices.
RATES = {
    "adamw": 0.0015,
    "sign_sgd": 0.0004,
    "signum": 0.0004,
    "lion": 0.0004,
    "sign_muon": 0.007,
    "lion_muon": 0.0076,
    "spec_sign": 0.007,
    "spec_sign_directional": 0.007,
    "spec_sign_unit_rms": 0.007,
    "spec_sign_random": 0.007,
    "muon": 0.007,
    "muon_fast3": 0.007,
    "muon_jordan": 0.007,
    "muon_hyperball": 0.0235,
    "normuon": 0.0157,
    "adamuon": 0.0043,
    "namo": 0.007,
    "muon2": 0.007,
    "aurora": 0.007,
    "scion": 0.000215,
    "spec_gd": 0.1,
    "polar_grad": 0.1,
    "dion": 0.015,
    "dion2": 0.019,
    "shampoo": 0.007,
    "soap": 0.002,
    "soap_muon": 0.0076,
    "recipe": 0.0076,
}

# Of everything else, where it is not 0.015.
REST = {
    "muon_hyperball": 0.0207,
    "normuon": 0.0207,
    "adamuon": 0.0246,
    "scion": 0.0246,
    "soap": 0.0045,
}


def get_config(arg=""):
    method, _, size = (arg or "muon").partition(",")
    config = presets.language_model(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = method_rule(method, r"blocks/.*/kernel", RATES)
    rest = REST.get(method, 0.015)
    config.optim.rules.rest = presets.rule(r".*", "adamw", rest, b1=0.8, b2=0.95)
    return config
