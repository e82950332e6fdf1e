"""Byte language model on 38 plays (not measured yet).

python train.py --config=configs/diloco_lm.py
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.language_model(arg)
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(
        r"blocks/.*/kernel", "adamw", 0.0015, b1=0.9, b2=0.95, weight_decay=0.1
    )
    config.optim.rules.rest = presets.rule(r".*", "adamw", 0.015, b1=0.8, b2=0.95)
    config.local_updates.update(
        name="diloco",
        replicas=4,
        period=20,
        outer_learning_rate=0.7,
        outer_momentum=0.9,
    )
    return config
