"""Small models of images: mlp, cnn, resnet or vit on digits or mnist5k, AdamW.

python train.py --config=configs/images.py:cnn,mnist5k
python train.py --config=configs/images.py:resnet,digits,micro
"""

from jopt.training import presets

RATES = {"mlp": 0.003, "cnn": 0.003, "resnet": 0.003, "vit": 0.001}


def get_config(arg=""):
    model, data, size = [*(arg.split(",") if arg else ()), "", "", ""][:3]
    model = model or "cnn"
    config = presets.images(model, data or "digits", size)
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(
        r".*", "adamw", RATES[model], weight_decay=0.01
    )
    return config
