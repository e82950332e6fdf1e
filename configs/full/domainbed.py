"""ResNet-50 on the image folders of DomainBed. Counted and planned, not trained.

python train.py --config=configs/full/domainbed.py:pacs --dry_run
python train.py --config=configs/full/domainbed.py:vlcs,irm --dry_run
python train.py --config=configs/full/domainbed.py:domain_net,coral --dry_run

The first argument is a set, the second an algorithm of docs/ood.md. `data.root` is your
folder ROOT/<environment>/<class>/<image>, named like the set unless you say otherwise;
environment 0 is the test, or `--config.data.test_envs=2,`.

As in DomainBed (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434; recalled): Adam at
5e-5, 32 images of each training environment a step, 5,001 steps, evaluated every 300
(1,000 for DomainNet), a fifth of each environment held out. Theirs starts from weights
of ImageNet, keeps BatchNorm as it is and augments images (a part of 0.7 to 1 of the
area, mirrored, changed in colour, one in ten grey); a run here starts anew, trains
BatchNorm and takes images as they are, since no augmentation here crops by area or
changes colours. To start from a file of weights see
`python -m jopt study pretrained --weights` (docs/ood.md), which keeps BatchNorm.
"""

from jopt import models
from jopt.data.environments import FOLDER_SETS
from jopt.errors import check_choice
from jopt.training import environment_presets, presets

ROWS = 32  # of each training environment


def get_config(arg=""):
    name, _, algorithm = (arg or "pacs").partition(",")
    check_choice("set", name, FOLDER_SETS)
    known = FOLDER_SETS[name]
    config = environment_presets.over_environments(
        name, algorithm or "erm", ROWS, root=name
    )
    config.model = {
        "name": "resnet",
        "stem": "imagenet",
        "image_size": 224,
        "channels": 3,
        "num_classes": known.num_classes,
        **models.RESNETS["50"],
    }
    config.train.steps = 5_001
    config.train.schedule.name = "constant"
    config.eval.update(every_steps=known.eval_every, batch_size=64)
    config.checkpoint.every_steps = known.eval_every
    config.monitor.every_steps = 0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "adamw", 5e-5, weight_decay=0.0)
    return config
