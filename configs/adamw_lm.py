"""Byte language model on 38 plays: AdamW on everything.

python train.py --config=configs/adamw_lm.py
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(
        r".*", "adamw", 0.006, b1=0.9, b2=0.95, weight_decay=0.1
    )
    return config
