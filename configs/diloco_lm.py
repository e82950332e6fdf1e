"""Byte language model on 38 plays: four replicas of AdamW that meet every 20 steps.

python train.py --config=configs/diloco_lm.py:micro

DiLoCo with the rules of adamw_lm.py inside, two rows a step for each replica, and
Nesterov outside at .7 and .5: with 25 rounds in the 500 steps of `:micro` the published
momentum of .9 was worse (2.888, seed 0). Validation at `:micro` 2.668 and 2.786
bits/byte (seeds 0 and 1), about a minute on two busy cores with JAX 0.12; adamw_lm.py
reaches 2.542 on the same rows (seed 0). `:tiny` was not trained.

On one device the replicas are simulated and nothing is sent. With four

JAX_NUM_CPU_DEVICES=4 python train.py --config=configs/diloco_lm.py:micro \\
  --config.mesh.replica=4

each has its own; docs/local_updates.md has all methods and what is sent.
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.adamw_language_model(arg)
    config.local_updates.update(
        name="diloco",
        replicas=4,
        period=20,  # steps
        outer_learning_rate=0.7,
        outer_momentum=0.5,
    )
    return config
