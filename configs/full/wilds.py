"""An encoder of the shape of DistilBERT on text of WILDS. Counted, not trained.

python train.py --config=configs/full/wilds.py:civilcomments --dry_run
python train.py --config=configs/full/wilds.py:civilcomments,group_dro --dry_run
python train.py --config=configs/full/wilds.py:amazon,irm --dry_run

The first argument is a set, the second an algorithm of docs/ood.md. `data.root` is the
folder of the set that the package wilds has downloaded, such as
data/civilcomments_v1.0. An example is the first 512 bytes of a text. Tokens of the
published runs are of a vocabulary of 30,522: the parameter count is theirs, but only
256 rows of the embedding are ever read, and the mean over all positions takes the place
of the first one, since bytes have no token for the whole.

Environments of civilcomments are identity x label: 16 of the published training and
validation comments, which all are trained on, and 16 of the published test, so that the
figure is `eval/ood/worst_accuracy`. Of amazon those 24 users of the published training
split are read that wrote most, and 8 of the test; the figure is
`eval/ood/accuracy_10th_percentile`. The published runs draw from 1,252 users
(recalled), and no step here could hold them all. Without `splits/user.csv` the 32 users
that wrote most are read, and the last 8 by name are the test.

As in WILDS (Koh et al., 2021, arXiv 2012.07421; recalled): AdamW at 1e-5 with decay
0.01, from published weights, 5 epochs of 16 comments, or 3 of 8 reviews; here 16 rows
or 24 from 24 users a step (twice as many but for erm and group_dro), from new weights,
80,000 steps, which is our choice.
"""

from jopt import models
from jopt.errors import check_choice
from jopt.training import environment_presets, presets

# Others compare rows of an environment with each other.
ONE_ROW = ("erm", "group_dro")
SETS = {"civilcomments": (2, None), "amazon": (5, 32)}  # classes, environments


def get_config(arg=""):
    name, _, algorithm = (arg or "civilcomments").partition(",")
    check_choice("set", name, SETS)
    classes, environments = SETS[name]
    config = environment_presets.over_environments(
        name,
        algorithm or "erm",
        1 if algorithm in ("", *ONE_ROW) else 2,
        root=f"data/{name}_v{'1.0' if name == 'civilcomments' else '2.1'}",
        environments=environments,
    )
    config.model = {
        "name": "text_encoder",
        "num_classes": classes,
        "pool": "mean",
        **models.TEXT_ENCODERS["distilbert"],
    }
    config.train.steps = 80_000
    config.train.schedule.update(name="warmup_stable_decay", decay=1.0)
    config.eval.update(every_steps=4_000, batch_size=64)
    config.checkpoint.every_steps = 4_000
    config.monitor.every_steps = 0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "adamw", 1e-5, weight_decay=0.01)
    return config
