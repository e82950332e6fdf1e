"""Byte language model on 38 plays: matrices take sign or spectral steps, by evidence.

python train.py --config=configs/spec_sign_lm.py
python train.py --config=configs/spec_sign_lm.py:micro

`:micro` takes a minute on two CPU cores with other work beside it: 2.323 ± .003
validation bits/byte (five seeds, rates .0076 and .0147, JAX 0.12; `muon_lm.py` 2.319).
Each layer's index, its parts and its choice are in the report; here it chooses spectral
steps almost everywhere, see `docs/which_geometry.md`.
"""

from jopt.training import presets
from jopt.training.methods import method_rule


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = method_rule(
        "spec_sign", r"blocks/.*/kernel", {"spec_sign": 0.007}
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    return config
