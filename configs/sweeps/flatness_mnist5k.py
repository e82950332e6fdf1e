"""Who finds flat minima without tuning? SGD, SAM, ASAM, SA-SAM and Delta-SGD.

python -m jopt sweep --config=configs/sweeps/flatness_mnist5k.py

A CNN on `mnist5k`, 4 trials of each method and five fresh seeds of the best; the first
step size of SA-SAM and Delta-SGD is drawn from a range of 1000. Batches of 32 and fewer
probes of the Hessian than on digits keep it near twenty minutes on two cores; `:full`
has neither saving. `:smoke` is a check of seconds, not a result.
`python -m jopt study flatness_mnist5k` runs and compares it.
"""

from jopt.studies import compare_flatness


def get_config(arg=""):
    config = compare_flatness("cnn", "mnist5k", arg)
    if arg in ("", "default"):
        config.trials = 4
        config.overrides.train = {"batch_size": 32}
        config.overrides.monitor = {"curvature": {"num_matvecs": 20, "num_probes": 16}}
    return config
