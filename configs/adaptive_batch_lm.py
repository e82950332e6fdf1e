"""Byte language model on 38 plays: Muon, with a batch that follows its noise scale.

python train.py --config=configs/adaptive_batch_lm.py
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(
        r"blocks/.*/kernel",
        "muon",
        0.007,
        beta=0.9,
        weight_decay=0.0,
        compute_dtype="auto",
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    adaptive = config.train.adaptive_batch
    adaptive.enabled = True
    adaptive.max_batch_size = 8 * config.train.batch_size
    adaptive.every_steps = 5
    adaptive.min_dwell_steps = 50
    return config
