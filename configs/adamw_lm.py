"""Byte language model on 38 plays: AdamW, the matrices at a rate of their own.

python train.py --config=configs/adamw_lm.py

Validation 1.899 ± 0.004 bits/byte (3 seeds, rates .00153 and .0147) on JAX 0.12.

python train.py --config=configs/adamw_lm.py:gpt2 --dry_run

`:gpt2` is checked, not trained: see muon_lm.py.
"""

from jopt.training import presets


def get_config(arg=""):
    return presets.adamw_language_model(arg)
