"""Byte language model on 38 plays: Signum on the matrices, AdamW on the rest.

python train.py --config=configs/signum_lm.py

Validation 1.926 ± 0.009 bits/byte (3 seeds, rates .00038 and .0147) on JAX 0.12.

python train.py --config=configs/signum_lm.py:gpt2 --dry_run

`:gpt2` is checked, not trained: see muon_lm.py.
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(
        r"blocks/.*/kernel", "signum", 0.0004, b1=0.95
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.9, b2=0.95)
    return config
