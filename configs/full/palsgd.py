"""The settings of PALSGD: GPT-Neo on TinyStories, ResNet-50 on ImageNet. Not trained.

python train.py --config=configs/full/palsgd.py:gpt_neo_8m --dry_run
python train.py --config=configs/full/palsgd.py:gpt_neo_125m,diloco --dry_run
python train.py --config=configs/full/palsgd.py:resnet50 --dry_run

A second argument is the method: palsgd, diloco, local_sgd or none (data parallel).
There are four replicas: on one device they are simulated, with
`--config.mesh.replica=4` each has a place of its own.

GPT-Neo as in the example command of the released code (Naganuma et al. 2025, arXiv
2504.18454): 4 x 32 x 16 rows a step, AdamW at .01, clip 1, 32 data-parallel steps, H =
32, p = .2, kappa = 1, outer Nesterov .1 and .9. That command is of the 8M model; the
125M one has its settings here. Our choices: 5,000 steps at a constant rate. Their
tokens are of GPT-2's vocabulary of 50257, ours bytes: the parameter count is the
published one, but most rows of the embedding are never read. Give the stories as
`data.path`.

ResNet-50: SGD with Nesterov momentum .875 and decay 2^-15 (of all parameters, in the
gradient, as torch has it), 90 epochs, 3 of them warm-up, then a cosine to 0; the outer
rate goes up over 20 epochs and down by a cosine to .1; p = .1 and 100 data-parallel
steps, the defaults of its parser. Our choices: 1024 images a step at the rate 1, H =
64, kappa = .02 (a pull then goes a fifth of the way at the peak; above .1 it would go
too far), outer Nesterov .4 and .9.
"""

from jopt import models
from jopt.errors import check_choice
from jopt.training import presets

GPT_NEOS = {"gpt_neo_8m": "8m", "gpt_neo_125m": "125m"}
OUTER = ("outer_learning_rate", "outer_momentum", "outer_warmup", "outer_final")
READS = {
    "palsgd": (*OUTER, "probability", "strength"),
    "diloco": OUTER,
    "local_sgd": (),
}


def get_config(arg=""):
    model, _, method = (arg or "gpt_neo_8m").partition(",")
    method = method or "palsgd"
    check_choice("model", model, [*GPT_NEOS, "resnet50"])
    check_choice("method", method, [*READS, "none"])
    if model == "resnet50":
        config, period, warmup, own = resnet50()
    else:
        config, period, warmup, own = gpt_neo(GPT_NEOS[model])
    config.train.compute_dtype = "bfloat16"
    config.monitor.every_steps = 0
    if method != "none":
        config.local_updates.update(
            {"name": method, "replicas": 4, "period": period, "warmup_steps": warmup},
            **{key: own[key] for key in READS[method] if key in own},
        )
    return config


def gpt_neo(size):
    config = presets.language_model("tiny")
    config.model = {"name": "gpt_neo", **models.GPT_NEOS[size]}
    config.data.seq_len = config.model.context
    config.train.update(steps=5_000, batch_size=4 * 32 * 16, accumulation=16)
    config.train.schedule.name = "constant"
    config.eval.update(every_steps=500, sample_tokens=0)
    config.checkpoint.every_steps = 500
    config.optim.whole_tree.clip = 1.0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "adamw", 0.01, b1=0.9, b2=0.999)
    own = {"outer_learning_rate": 0.1, "outer_momentum": 0.9}
    return config, 32, 32, {**own, "probability": 0.2, "strength": 1.0}


def resnet50():
    settings = {"stem": "imagenet", **models.RESNETS["50"]}
    config = presets.imagenet("resnet", 1024, 90, **settings)
    config.train.schedule.update(name="cosine", warmup=3 / 90)
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(
        r".*", "torch_sgd", 1.0, momentum=0.875, nesterov=True, weight_decay=2**-15
    )
    own = {"outer_learning_rate": 0.4, "outer_momentum": 0.9}
    own |= {"outer_warmup": 20 / 90, "outer_final": 0.1 / 0.4}
    return config, 64, 100, {**own, "probability": 0.1, "strength": 0.02}
