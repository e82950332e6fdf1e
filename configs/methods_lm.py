"""Byte language model on 38 plays: any published method on the matrices, AdamW beside.

python train.py --config=configs/methods_lm.py:normuon
python train.py --config=configs/methods_lm.py:soap_muon,micro

METHOD or METHOD,SIZE; `docs/optimizers.md` lists the methods. The rates of `adamw`,
`signum` and `muon` are those of `adamw_lm.py`, `signum_lm.py` and `muon_lm.py`; those
of the others are what their update size suggests, untuned: `python -m jopt study
optimizers_lm` tunes thirteen of them.
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
    "lion_muon": 0.007,
    "spec_sign": 0.007,
    "spec_sign_directional": 0.007,
    "spec_sign_random": 0.007,
    "muon": 0.007,
    "muon_fast3": 0.007,
    "muon_jordan": 0.007,
    "muon_hyperball": 0.01,
    "normuon": 0.007,
    "adamuon": 0.007,
    "namo": 0.007,
    "muon2": 0.007,
    "aurora": 0.007,
    "scion": 0.0003,
    "spec_gd": 0.1,
    "polar_grad": 0.1,
    "dion": 0.015,
    "dion2": 0.015,
    "shampoo": 0.007,
    "soap": 0.003,
    "soap_muon": 0.007,
    "recipe": 0.007,
}


def get_config(arg=""):
    method, _, size = (arg or "muon").partition(",")
    config = presets.language_model(size)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = method_rule(method, r"blocks/.*/kernel", RATES)
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    return config
