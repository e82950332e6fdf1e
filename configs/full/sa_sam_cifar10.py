"""VGG-19 or ViT-small on CIFAR-10, in the setting of SA-SAM. Checked, not trained.

python train.py --config=configs/full/sa_sam_cifar10.py:vgg19,released --dry_run
python train.py --config=configs/full/sa_sam_cifar10.py:vit,momentum --dry_run

200 epochs of batches of 256, no momentum, decay or schedule for SA-SAM, first step .05;
the last evaluation is on CIFAR-10-C as well (Naganuma et al., ICLR 2024 workshop). What
we do not know of the published runs is our choice: a linear head after BatchNorm for
VGG-19, ViT-S with patches of 4, crops and mirrors. A tenth of the training images is
kept for validation. `data.tfds_dir` is where TFDS has prepared cifar10, see
docs/models.md.
"""

from jopt import models
from jopt.errors import check_choice
from jopt.training import presets

MODELS = {
    "vgg19": ("vgg", {"depth": 19}),
    "vit": ("vit", {**models.VITS["s"], "patch_size": 4}),
}
SMOOTH = {
    "released": {"name": "sa_sam", "variant": "released", "init_step_size": 0.05},
    "paper": {"name": "sa_sam", "variant": "paper", "init_step_size": 0.05},
    "sa_sgd": {"name": "delta_sgd", "init_step_size": 0.05, "delta": 0.02, "eps": 1e-8},
}
BASELINES = {
    "momentum": ("sgd", 0.05, {"momentum": 0.9}),
    "adam": ("adamw", 0.001, {"weight_decay": 0.0}),
}


def get_config(arg=""):
    model, _, method = (arg or "vgg19").partition(",")
    method = method or "released"
    check_choice("model", model, MODELS)
    check_choice("method", method, [*SMOOTH, *BASELINES])
    name, settings = MODELS[model]
    config = presets.cifar10(name, **settings)
    config.train.schedule.name = "constant"
    if method in SMOOTH:
        config.train.compute_dtype = "float32"  # differences of gradients are measured
        config.optim.whole_tree.optimizer.update(SMOOTH[method])
        return config
    optimizer, rate, options = BASELINES[method]
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", optimizer, rate, **options)
    return config
