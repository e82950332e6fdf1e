"""A perceptron on digits whose optimizer does not amplify rounding: SGD or AdamW."""

from jopt.training import presets


def get_config(arg=""):
    config = presets.digits()
    if arg == "adamw":
        # Where a gradient is near zero, a small eps makes steps of its rounding.
        config.optim.rules.all = presets.rule(r".*", "adamw", 0.003, eps=1e-3)
    else:
        config.optim.rules.all = presets.rule(r".*", "optax:sgd", 0.1, momentum=0.9)
    config.optim.order = ("all",)
    config.train.update(steps=50, compute_dtype="float32", log_every_steps=10)
    config.report.html = False
    return config
