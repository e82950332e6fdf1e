"""Environments: data sets of one question that differ in where they come from.

A task has several; a run trains on some and is judged on others. Every environment is
split once into what is trained on and what is held out, by permutations of its numbers
that depend on the trial seed alone.

>>> task = load_task("coloured_digits")
>>> parts = task.parts(trial_seed=0)
>>> [(part.inside.size, part.outside.size) for part in parts]
[(480, 119), (480, 119), (480, 119)]
>>> streams = task.streams(0, order_seed=7, test_envs=(2,))
>>> batch = streams[0].batch(cursor=0, batch_size=4)
>>> batch["inputs"].shape, batch["targets"].shape
((4, 8, 8, 2), (4,))
"""

from jopt.data.environments._coloured import (
    coloured,
    coloured_task,
    grey,
    original_task,
)
from jopt.data.environments._folders import (
    FOLDER_SETS,
    ImageFiles,
    folder_set,
    folders_task,
)
from jopt.data.environments._genres import TextWindows, genres_task, text_windows
from jopt.data.environments._holdout import HOLDOUT, holdout, seed_hash
from jopt.data.environments._pooled import POOLS, dealt, pool
from jopt.data.environments._sets import (
    ENVIRONMENT_SETS,
    ON_DISK,
    Asked,
    EnvironmentSet,
    environment_set,
    read_set,
)
from jopt.data.environments._tasks import TASKS, load_task
from jopt.data.environments._turned import (
    CHANGES,
    collections_task,
    corrupted_task,
    rotated,
    rotated_task,
)
from jopt.data.environments._types import (
    PARTS,
    DomainTask,
    Environment,
    Part,
    Parts,
    train_envs,
)
from jopt.data.environments._wilds import wilds_task
from jopt.data.environments._wilds_schemes import SCHEMES

__all__ = [
    "CHANGES",
    "ENVIRONMENT_SETS",
    "FOLDER_SETS",
    "HOLDOUT",
    "ON_DISK",
    "PARTS",
    "POOLS",
    "SCHEMES",
    "TASKS",
    "Asked",
    "DomainTask",
    "Environment",
    "EnvironmentSet",
    "ImageFiles",
    "Part",
    "Parts",
    "TextWindows",
    "collections_task",
    "coloured",
    "coloured_task",
    "corrupted_task",
    "dealt",
    "environment_set",
    "folder_set",
    "folders_task",
    "genres_task",
    "grey",
    "holdout",
    "load_task",
    "original_task",
    "pool",
    "read_set",
    "rotated",
    "rotated_task",
    "seed_hash",
    "text_windows",
    "train_envs",
    "wilds_task",
]
