"""Which optimizer trains best inside replicas, and what does a 2-bit exchange cost?

python -m jopt sweep --config=configs/sweeps/local_inner_lm.py

AdamW, Muon and Signum on the matrices of `:micro`, each inside DiLoCo, PALSGD and
DiLoCo with two bits and error feedback (`two_bit`); four simulated replicas that meet
every 20 steps. Two rates of each arm, three fresh seeds of the better. `:full` adds
data parallelism and PALSGD with two bits, and has four rates and five seeds. `:smoke`
is a check of seconds, not a result. `python -m jopt study local_inner_lm` runs and
compares it.
"""

from jopt.studies import compare_apart_on_language

# Of the matrices, for DiLoCo: twice and half of each are worse. In data-parallel
# training it is half of Muon's and twice Signum's (configs/methods_lm.py).
RATES = {"adamw": 0.0015, "muon": 0.014, "signum": 0.0002}
OUTER = {"period": 20, "outer_learning_rate": 0.7, "outer_momentum": 0.5}
DILOCO = {"name": "diloco", **OUTER}
# Of all pulls, so that they are the same whatever is inside.
PULL = {"probability": 0.1, "strength": 0.5, "learning_rate": 0.0015}
PALSGD = {"name": "palsgd", **OUTER, **PULL}
TWO_BIT = {"compressor": "two_bit", "error_feedback": 1.0}
METHODS = {
    "diloco": DILOCO,
    "palsgd": PALSGD,
    "two_bit": {**DILOCO, **TWO_BIT},
}
MORE = {"ddp": {}, "palsgd_two_bit": {**PALSGD, **TWO_BIT}}
SMOKE = ("adamw_diloco", "muon_two_bit", "signum_palsgd")


def get_config(arg=""):
    methods = {**METHODS, **MORE} if arg == "full" else METHODS
    arms = {
        f"{inner}_{name}": (f"configs/methods_lm.py:{inner},micro", rate, own)
        for inner, rate in RATES.items()
        for name, own in methods.items()
    }
    if arg == "smoke":
        arms = {name: arms[name] for name in SMOKE}
    return compare_apart_on_language(arms, arg)
