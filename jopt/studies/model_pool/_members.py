"""Which models the pool has, and how much each size of the study does.

Three axes meet in the middle, where a model has width 1, all examples and no recipe:
width (with all examples, no recipe), examples (width 1, no recipe) and recipe (width 1,
all examples). It is no full grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jopt.errors import check_choice
from jopt.studies.model_pool._fine_tuning import Protocol
from jopt.studies.model_pool._pretraining import Pretraining
from jopt.studies.model_pool._recipes import RECIPES
from jopt.studies.model_pool._user_weights import UserWeights

PLAIN = "none"
# Our control of what pre-training gives: the same models with initial parameters.
SCRATCH = 0.0


class Size(NamedTuple):
    """How much is done.

    Attributes:
        task: where none is named.
        widths: family -> what it has at width 1.
        factors: of these widths.
        shares: of the pre-training examples.
        recipes: keys of `RECIPES`; the first is none.
        steps, batch_size, rate: of pre-training.
        protocols: by name of the optimizer of the fine-tuning.
        of_folders: the same for images in folders.
        optimizers: of them, where none are named.
    """

    task: str
    widths: Mapping[str, int]
    factors: tuple[float, ...]
    shares: tuple[float, ...]
    recipes: tuple[str, ...]
    steps: int
    batch_size: int
    rate: float
    protocols: Mapping[str, Protocol]
    of_folders: Mapping[str, Protocol]
    optimizers: tuple[str, ...]


def _protocols(
    momentum: tuple[float, ...], adamw: tuple[float, ...], *more: int
) -> dict[str, Protocol]:
    return {
        "momentum": Protocol("momentum", momentum, *more),
        "adamw": Protocol("adamw", adamw, *more),
    }


_FACTORS = (0.25, 0.5, 1.0, 2.0)
_SHARES = (SCRATCH, 0.1, 0.3, 1.0)
_ALL = tuple(RECIPES)
# Steps, evaluations and batches are those of DomainBed; rates are ours.
_FOLDERS = _protocols((1e-4, 1e-3, 1e-2), (1e-6, 1e-5, 1e-4), 3, 5001, 300, 32)
_SMOKE = _protocols((0.03, 0.1), (1e-3, 3e-3), 2, 40, 20, 8)
SIZES = {
    "smoke": Size(
        task="rotated_digits",
        widths={"mlp": 16},
        factors=(0.5, 1.0),
        shares=(0.3, 1.0),
        recipes=(PLAIN, "sam"),
        steps=100,
        batch_size=32,
        rate=3e-3,
        protocols=_SMOKE,
        of_folders=_SMOKE,
        optimizers=("momentum",),
    ),
    "default": Size(
        task="rotated_mnist5k",
        widths={"mlp": 256, "cnn": 16, "vit": 64},
        factors=_FACTORS,
        shares=_SHARES,
        recipes=_ALL,
        steps=300,
        batch_size=64,
        rate=2e-3,
        protocols=_protocols(
            (0.01, 0.03, 0.1, 0.3), (3e-4, 1e-3, 3e-3, 1e-2), 3, 240, 60, 12
        ),
        of_folders=_FOLDERS,
        optimizers=("momentum",),
    ),
    "full": Size(
        task="rotated_mnist5k",
        widths={"mlp": 512, "cnn": 32, "vit": 128},
        factors=_FACTORS,
        shares=_SHARES,
        recipes=_ALL,
        steps=3000,
        batch_size=64,
        rate=1e-3,
        protocols=_protocols(
            (1e-3, 3e-3, 0.01, 0.03, 0.1),
            (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
            *(5, 1000, 100, 32),
        ),
        of_folders=_FOLDERS,
        optimizers=("momentum", "adamw"),
    ),
}


class Checkpoint(NamedTuple):
    """A model of the pool, and its place on the axes.

    Attributes:
        source: how it was pre-trained, or where its file is.
        factor: of the width of its family; None for a user's own.
    """

    source: Pretraining | UserWeights
    factor: float | None


def checkpoints(size: Size) -> dict[str, Checkpoint]:
    """The models that are trained here by name, each once, those of one program
    together.

    >>> len(checkpoints(SIZES["default"])), list(checkpoints(SIZES["smoke"]))[:2]
    (33, ['mlp_8-100-none', 'mlp_16-30-none'])
    """
    found = {}
    for family, base in size.widths.items():
        for factor in size.factors:
            architecture = f"{family}_{round(base * factor)}"
            for share, recipe in _kinds(size, factor):
                name = f"{architecture}-{100 * share:g}-{recipe}"
                numbers = (size.steps, size.batch_size, size.rate)
                settings = Pretraining(architecture, share, recipe, *numbers)
                found[name] = Checkpoint(settings, factor)
    return found


def _kinds(size: Size, factor: float) -> Iterator[tuple[float, str]]:
    """Shares and recipes of the models of one width."""
    if factor != 1:
        yield 1.0, PLAIN
        return
    for share in size.shares:
        yield share, PLAIN
    for recipe in size.recipes:
        check_choice("recipe", recipe, RECIPES)
        if recipe != PLAIN:
            yield 1.0, recipe
