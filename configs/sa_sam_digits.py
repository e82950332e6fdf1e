"""A perceptron on 8 x 8 digits: SA-SAM, whose step size and radius nobody chooses.

python train.py --config=configs/sa_sam_digits.py:narrow
python train.py --config=configs/sa_sam_digits.py:released

14 s on a busy core. Validation accuracy, mean and standard deviation of 5 seeds, with
JAX 0.12, nothing tuned:

    narrow        0.950 ± 0.012      a hundredth of the published loss budget
    sa_sgd        0.947 ± 0.008      no perturbation
    perturbation  0.944 ± 0.011      the published radius, two gradients in a step
    released      0.260 ± 0.064      the published radius, three gradients
    paper         0.110 ± 0.034
    quick         0.107 ± 0.047

The radius of SA-SAM is a budget of half a nat of loss, and an untrained model has 2.3:
here the published form mostly finds flat places. `docs/smoothness.md` tells more.
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
    variant, _, size = (arg or "narrow").partition(",")
    check_choice("variant", variant, VARIANTS)
    config = presets.digits(size)
    config.train.schedule.name = "constant"  # the optimizer sets its own step size
    # What is measured is the difference of two gradients.
    config.train.compute_dtype = "float32"
    config.optim.whole_tree.optimizer.update(VARIANTS[variant])
    return config
