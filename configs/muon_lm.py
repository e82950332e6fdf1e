"""Byte language model on 38 plays: Muon on the matrices, AdamW on the rest.

python train.py --config=configs/muon_lm.py

4 minutes on two CPU cores with JAX 0.10, 2.4 with 0.12; validation
1.851 ± 0.005 bits/byte (3 seeds, learning rates .0076 and .0147) on JAX 0.12.

python train.py --config=configs/muon_lm.py:gpt2 --dry_run

`:gpt2` has GPT-2's 12 layers of 768 and its context of 1024, scanned, and 85.3 million
parameters: ids are bytes (256), not its 50257 tokens. It is checked, not trained; the
plays are far too little text for it, so give it your own (--config.data.path).
"""

from jopt.training import presets


def get_config(arg=""):
    return presets.muon_language_model(arg)
