"""Byte language model on 38 plays: diloco_lm.py with pulls instead of some gradients.

python train.py --config=configs/palsgd_lm.py:micro

PALSGD: at a tenth of its steps a replica goes a little of the way to the anchor and
computes no gradient. Validation at `:micro` 2.756 bits/byte (seed 0, JAX 0.12), after
nine tenths of the gradients of diloco_lm.py, which has 2.668 with the same seed.
`:tiny` was not trained.

A pull goes .0015 x .5 / .1 = .0075 of the way, times the schedule. On one device the
replicas are simulated by vmap, which computes what a pull skips; with
`--config.local_updates.mode=shard_map` they run in turn and skip it, as on a mesh.
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.adamw_language_model(arg)
    config.monitor.every_steps = 0  # the rate is outside of what it would watch
    config.local_updates.update(
        name="palsgd",
        replicas=4,
        period=20,  # steps
        outer_learning_rate=0.7,
        outer_momentum=0.5,
        probability=0.1,
        strength=0.5,
        learning_rate=0.0015,  # of a pull
    )
    return config
