"""What do parts, delay, mixing and four bits cost in loss, and save in bytes?

python -m jopt sweep --config=configs/sweeps/streaming_lm.py

AdamW on `:micro`, four simulated replicas, H = 24: DiLoCo (`diloco`) and Streaming
DiLoCo with two and three parts, received 0, 1 or 4 steps later, in place of a replica's
own or mixed half and half, in float32 or four bits with error feedback; `ddp` is data
parallelism. Two rates of each arm, three fresh seeds of the better. `:full` crosses
them all, with four rates and five seeds. `:smoke` is a check of seconds, not a result.
`python -m jopt study streaming_lm` runs and compares it; bytes are those of its column
`MB sent a step (model)`.
"""

import itertools

from jopt.studies import compare_apart_on_language

OUTER = {"period": 24, "outer_learning_rate": 0.7, "outer_momentum": 0.5}
DILOCO = {"name": "diloco", **OUTER}
BITS = {"": {}, **{name: {"compressor": name} for name in ("int4", "e3m0")}}


def streaming(parts, delay, mix, bits=""):
    name = f"parts_{parts}_delay_{delay}_mix_{int(100 * mix)}"
    own = {"fragments": parts, "delay": delay, "mix": mix, **BITS[bits]}
    own = {"name": "streaming_diloco", **OUTER, **own}
    return (f"{name}_{bits}" if bits else name), own


CHOSEN = (
    (2, 0, 0.0),
    (3, 0, 0.0),
    (3, 1, 0.0),
    (3, 1, 0.5),
    (3, 4, 0.5),
    (3, 1, 0.5, "int4"),
    (3, 1, 0.5, "e3m0"),
)
# Mixing makes up for what a replica has learned in the meantime.
LATE = [(0, 0.0), *itertools.product((1, 4), (0.0, 0.5))]
ALL = [
    (parts, *late, bits) for parts, late, bits in itertools.product((2, 3), LATE, BITS)
]


def get_config(arg=""):
    whole = {"ddp": {}, "diloco": DILOCO, "diloco_int4": {**DILOCO, **BITS["int4"]}}
    parts = dict(streaming(*case) for case in (ALL if arg == "full" else CHOSEN))
    own = {**whole, **parts}
    if arg == "smoke":
        # Its model has one layer, which is one part; the rest is the other.
        small = {"period": 8, "fragments": 2}
        late = {**parts["parts_3_delay_1_mix_50_e3m0"], **small}
        own = {"diloco": {**DILOCO, "period": 8}, "parts_2_delay_1_mix_50_e3m0": late}
    arms = {k: ("configs/adamw_lm.py:micro", 0.0015, x) for k, x in own.items()}
    return compare_apart_on_language(arms, arg)
