"""Byte language model on 38 plays: Muon, with a batch that follows its noise scale.

python train.py --config=configs/adaptive_batch_lm.py:micro

Rules and bytes are those of muon_lm.py. A batch has 8 sequences at first and doubles,
up to 32, while it is below the noise scale of the matrices in the spectral norm;
learning rates grow with its root. `:micro`, JAX 0.12: 2.378 and 2.359 bits/byte (seeds
0 and 1) in 215 and 208 steps; muon_lm.py:micro has 2.334 and 2.318 in 500. It took 73
and 77 s on two CPU cores beside other work, with three programs to compile,
muon_lm.py:micro 35 and 42 s: on a CPU fewer steps of the same tokens save nothing. With
equal rates and up to 64 sequences it was 2.428 in 198 steps (seed 0). Nothing was
tuned; `:tiny` and larger were not trained.

The rule is that of Naganuma et al. 2026, Non-Euclidean gradient noise scales, arXiv
2602.03001: grow while B < theta B_g, with B_g measured in the dual norm of the
optimizer. The estimate of B_g and theta = 2 are derived (docs/architecture.md).
"""

from jopt.training import presets


def get_config(arg=""):
    config = presets.muon_language_model(arg)
    adaptive = config.train.adaptive_batch
    adaptive.enabled = True
    adaptive.max_batch_size = 4 * config.train.batch_size
    adaptive.learning_rate = "sqrt"
    adaptive.every_steps = 5
    adaptive.min_dwell_steps = 50
    return config
