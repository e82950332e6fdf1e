"""The settings of No Wrong Turns: CIFAR-10 and a 12-layer transformer. Not trained.

python train.py --config=configs/full/no_wrong_turns.py:resnet18 --dry_run
python train.py --config=configs/full/no_wrong_turns.py:mlp,adam --dry_run
python train.py --config=configs/full/no_wrong_turns.py:resnet50_imagenet --dry_run
python train.py --config=configs/full/no_wrong_turns.py:transformer --dry_run

ResNet-18 and a perceptron with a layer of 4096 on CIFAR-10, SGD with and without
momentum .9 or Adam, 100 epochs; batches of 64 to 512 with the rate
.005 sqrt(batch / 64), where the batch that .005 belongs to is our choice. The published
decay of 1e-6 is left out: `sgd` has none. On ImageNet ResNet-18 and -50, 180 epochs,
three of them warm-up, then a cosine. The transformer has 12 layers of width 128 and 4
heads, Adam, 20 epochs of WikiText-2: give its text as `data.path`. Tokens are bytes
here and words there, and its blocks are those of `transformer_lm`. A third argument is
another batch: `resnet18,sgd,512`.
"""

from jopt import models
from jopt.errors import check_choice
from jopt.training import presets

RULES = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "adam": ("adamw", {"weight_decay": 0.0}),
}
# Windows of 256 bytes in 9/10 of WikiText-2, whose size, 10.9 MB, is recalled.
SEQ_LEN, WINDOWS = 256, 38_300


CIFAR = {
    "resnet18": ("resnet", models.RESNETS["18"]),
    "mlp": ("mlp", {"hidden_dim": 4096, "num_layers": 1}),
}
IMAGENET = {"resnet18_imagenet": "18", "resnet50_imagenet": "50"}


def get_config(arg=""):
    model, method, batch = [*(arg.split(",") if arg else ()), "", "", ""][:3]
    model = model or "resnet18"
    method = method or ("adam" if model == "transformer" else "momentum")
    batch_size = int(batch or (32 if model == "transformer" else 128))
    check_choice("model", model, [*CIFAR, *IMAGENET, "transformer"])
    check_choice("method", method, RULES)
    rate = 0.001 if method == "adam" else 0.005 * (batch_size / 64) ** 0.5
    if model == "transformer":
        config = transformer(batch_size)
    elif model in IMAGENET:
        depth = models.RESNETS[IMAGENET[model]]
        config = presets.imagenet("resnet", batch_size, 180, stem="imagenet", **depth)
        config.train.schedule.update(name="cosine", warmup=3 / 180)
    else:
        name, settings = CIFAR[model]
        config = presets.cifar10(name, batch_size, 100, **settings)
        config.train.schedule.name = "constant"
    name, options = RULES[method]
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", name, rate, **options)
    return config


def transformer(batch_size):
    config = presets.language_model("tiny")
    config.model.update(num_layers=12, embed_dim=128, num_heads=4, scan=True)
    config.data.seq_len = SEQ_LEN
    config.train.batch_size = batch_size
    config.train.steps = presets.epochs(20, WINDOWS, batch_size)
    config.train.schedule.name = "constant"
    config.eval.every_steps = config.checkpoint.every_steps = 2_000
    return config
