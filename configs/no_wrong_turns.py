"""Whole-tree optimizers and batch sizes for path geometry (docs/paths.md).

python train.py --config=configs/no_wrong_turns.py:adam,64
python -m jopt probe runs/RUN --paths

OPTIMIZER or OPTIMIZER,BATCH or OPTIMIZER,BATCH,MODEL: `sgd`, `momentum`, `adam`, `muon`
or `signum` on a perceptron or a convolutional network on 8 x 8 digits (`mlp`, `cnn`),
or on the byte language model `micro`, `tiny` or `small`. Rates are at the batch of the
preset (64 on digits, 8 of text) and go with the root of the batch, as in the paper
(arXiv 2306.11922); the number of examples is fixed. Seconds on one core, half a minute
for `micro`.
"""

from typing import Any

from jopt.errors import check_choice
from jopt.training import presets

# Arguments of an optimizer, and its rates: of a classifier, of the language model.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "sgd": ("sgd", {}, 0.3, 0.5),
    "momentum": ("sgd", {"momentum": 0.9}, 0.05, 0.1),
    "adam": ("adamw", {"b1": 0.9, "b2": 0.95, "weight_decay": 0.0}, 0.003, 0.003),
    "muon": ("muon", {"beta": 0.9, "compute_dtype": "auto"}, 0.01, 0.007),
    "signum": ("signum", {"b1": 0.9}, 0.001, 0.0005),
}
LANGUAGE = ("micro", "tiny", "small")


def get_config(arg=""):
    optimizer, batch, model = [*arg.split(","), "", "", ""][:3]
    optimizer, model = optimizer or "sgd", model or "mlp"
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_choice("model", model, ("mlp", "cnn", *LANGUAGE))
    language = model in LANGUAGE
    if language:
        config = presets.language_model(model)
    else:
        config = presets.digits() if model == "mlp" else presets.images(model)
    examples = config.train.steps * config.train.batch_size
    base = config.train.batch_size
    config.train.batch_size = int(batch or base)
    config.train.steps = max(examples // config.train.batch_size, 1)
    scale = (config.train.batch_size / base) ** 0.5
    name, options, *rates = OPTIMIZERS[optimizer]
    whole = presets.rule(r".*", name, rates[language] * scale, **options)
    if name == "muon":
        # Spectral steps are for hidden matrices; Adam takes the rest.
        whole.match = r"blocks/.*/kernel" if language else r"layers/.*/kernel"
        beside, others, *rates = OPTIMIZERS["adam"]
        config.optim.rules.rest = presets.rule(
            r".*", beside, rates[language] * scale, **others
        )
    config.optim.order = ("all", "rest") if name == "muon" else ("all",)
    config.optim.rules.all = whole
    # The end of the run is all that its path needs.
    config.checkpoint.every_steps = 0
    return config
