"""Byte language model on 38 plays: AdamW, the matrices at a rate of their own.

python train.py --config=configs/adamw_lm.py

Validation 1.899 ± 0.004 bits/byte (3 seeds, rates .00153 and .0147) on JAX 0.12.

python train.py --config=configs/adamw_lm.py:gpt2 --dry_run

`:gpt2` is checked, not trained: see muon_lm.py.
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(
        r"blocks/.*/kernel", "adamw", 0.0015, b1=0.9, b2=0.95, weight_decay=0.1
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    return config
