"""A perceptron on 8 x 8 digits: SA-SAM, whose step size and radius nobody chooses.

python train.py --config=configs/sa_sam_digits.py:released
"""

from ml_collections.config_dict import placeholder

from jopt.errors import check_choice
from jopt.training import presets

# Placeholders stand for what the variant says.
RELEASED = {
    "name": "sa_sam",
    "variant": "released",  # the authors' code
    "init_step_size": 0.05,
    "gamma": placeholder(float),
    "delta": placeholder(float),
    "rho_scale": 1.0,
    "rho_max": placeholder(float),
    "smoothness": "trajectory",
}
VARIANTS = {
    "released": RELEASED,
    "paper": RELEASED | {"variant": "paper"},
    # The brake on growth of Delta-SGD's paper.
    "quick": RELEASED | {"delta": 0.1},
    # A hundredth of the loss budget that the radius is.
    "narrow": RELEASED | {"rho_scale": 0.1},
    # Two gradients in a step instead of three.
    "perturbation": RELEASED | {"smoothness": "perturbation"},
    # Without perturbation: the paper's baseline SA-SGD.
    "sa_sgd": {"name": "delta_sgd", "init_step_size": 0.05, "delta": 0.02, "eps": 1e-8},
}


def get_config(arg=""):
    variant, _, size = (arg or "released").partition(",")
    check_choice("variant", variant, VARIANTS)
    config = presets.digits(size)
    config.train.schedule.name = "constant"  # the optimizer sets its own step size
    # What is measured is the difference of two gradients.
    config.train.compute_dtype = "float32"
    config.optim.whole_tree.optimizer.update(VARIANTS[variant])
    return config
