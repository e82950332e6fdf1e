"""Which part of what PALSGD saves on a language model is skipped compute?

python -m jopt sweep --config=configs/sweeps/palsgd_lm.py

AdamW on `:micro`, 512 steps: data parallelism (`ddp`), Local SGD, DiLoCo, PALSGD,
PALSGD that pulls the embedding alone (`palsgd_first`, what the released code does), and
PALSGD without a pull (`skip_only`), with four simulated replicas that meet every 8, 32
or 128 steps. Two rates of each arm, three fresh seeds of the better. `:full` has every
method at every period, four rates, five seeds and 2,048 steps. `:smoke` is a check of
seconds, not a result. `python -m jopt study palsgd_lm` runs it and compares at equal
steps, at equal gradients, and at equal modelled time where a fifth of a data-parallel
step is communication.
"""

from jopt.studies import compare_palsgd_on_language


def get_config(arg=""):
    return compare_palsgd_on_language(arg)
