"""Small models of images for flatness: SGD, SAM, ASAM, SA-SAM, Delta-SGD.

python train.py --config=configs/flatness.py:sam,mlp,digits

METHOD, METHOD,MODEL or METHOD,MODEL,DATA: `sgd`, `sam`, `asam`, `looksam`, `delta_sgd`,
`sa_sam` (released), `sa_sam_paper`, `sa_sam_narrow` or `sa_sam_narrow_two` (with two
gradients a step instead of three), on `mlp` or `cnn`, on `digits` or `mnist5k`. The
loss at the end is measured as well: largest eigenvalue and trace of the Hessian on 256
training images, and all corrupted copies of the validation images. The rates are not
tuned: `python -m jopt study flatness_digits` tunes them.
"""

from jopt.errors import check_choice
from jopt.training import presets

# Optimizers of all parameters, which set their own step size.
WHOLE = {
    "delta_sgd": {"name": "delta_sgd", "init_step_size": 0.05},
    "sa_sam": {"name": "sa_sam", "init_step_size": 0.05},
    "sa_sam_paper": {"name": "sa_sam", "init_step_size": 0.05, "variant": "paper"},
    "sa_sam_narrow": {"name": "sa_sam", "init_step_size": 0.05, "rho_scale": 0.1},
    "sa_sam_narrow_two": {
        "name": "sa_sam",
        "init_step_size": 0.05,
        "rho_scale": 0.1,
        "smoothness": "perturbation",
    },
}
# Members of the SAM family around SGD with momentum, and their radii.
RADII = {"sgd": None, "sam": 0.05, "asam": 0.5, "looksam": 0.05}
PERIOD = 5  # of LookSAM: the steps between two second gradients


def get_config(arg=""):
    method, model, data = [*(arg.split(",") if arg else ()), "", "", ""][:3]
    method, model, data = method or "sam", model or "mlp", data or "digits"
    check_choice("method", method, (*RADII, *WHOLE))
    config = presets.images(model, data)
    # Differences of gradients are what two of the methods are made of.
    config.train.compute_dtype = "float32"
    if method in WHOLE:
        config.train.schedule.name = "constant"
        config.optim.whole_tree.optimizer.update(WHOLE[method])
    else:
        config.optim.order = ("all",)
        config.optim.rules.all = presets.rule(r".*", "sgd", 0.1, momentum=0.9)
        if RADII[method] is not None:
            config.oracle.update(name=method, rho=RADII[method])
        if method == "looksam":
            config.oracle.period = PERIOD
    config.eval.corruptions = ("all",)
    config.monitor.every_steps = 0
    # Once: the last state is measured whatever the number is.
    config.monitor.curvature.update(
        every_steps=config.train.steps,
        num_matvecs=30,
        num_probes=64,
        num_examples=256,
        what=("lambda_max", "trace"),
    )
    return config
