"""Checkpoints of the pool on disk, made where they are missing.

POOL/NAME/weights      parameters, as Orbax writes them, with a manifest
POOL/NAME/card.json    what is known of them; written last: with it a model is complete
POOL/NAME/card.md      the same for people
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jopt.errors import DamagedCheckpointError
from jopt.reporting import read_json, write_json, write_text
from jopt.studies.model_pool._cards import (
    ModelCard,
    card_from,
    card_markdown,
    card_record,
    make_card,
)
from jopt.studies.model_pool._data import Halves, numbers_digest, share_size
from jopt.studies.model_pool._pretraining import Pretraining, pretrained
from jopt.studies.model_pool._recipes import RECIPES
from jopt.studies.model_pool._training import Network
from jopt.studies.sweeps._identity import job_id
from jopt.tree import digest, named_leaves
from jopt.weights import Leaf, new_weights, open_weights
from jopt.weights._weights import nested

CARD, TEXT, WEIGHTS = "card.json", "card.md", "weights"


class Member(NamedTuple):
    """A model of the pool."""

    network: Network
    card: ModelCard


def member_name(settings: Pretraining, halves: Halves) -> str:
    """A readable name that differs where anything in the pre-training does."""
    count = share_size(halves.train.size, settings.share)
    resolved = {
        **settings._asdict(),
        **RECIPES[settings.recipe]._asdict(),
        "images": halves.source,
        "shape": list(halves.train.inputs.shape[1:]),
        "numbers": numbers_digest(halves.numbers["pre-training"][:count]),
    }
    share = f"{100 * settings.share:g}"
    return f"{settings.architecture}-{share}-{settings.recipe}-{job_id(resolved)[:8]}"


def load_member(
    pool: Path, settings: Pretraining, halves: Halves, command: str
) -> Member:
    """A model from the pool; it is trained and put there first if it is missing.

    What a killed process has left of one, a folder without a card, is made anew.

    Fails: `DamagedCheckpointError` where its bytes are not those of its card.
    """
    name = member_name(settings, halves)
    folder = pool / name
    if not (folder / CARD).exists():
        network = pretrained(settings, halves)
        card = make_card(name, settings, network, halves, command)
        write_member(folder, Member(network, card))
    return read_member(folder)


def write_member(folder: Path, member: Member) -> None:
    """Weights, then the card."""
    weights = folder / WEIGHTS
    if weights.exists():
        shutil.rmtree(weights)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        path: np.asarray(leaf)
        for path, leaf in named_leaves(member.network.params).items()
    }
    leaves = {path: Leaf(x.shape, x.dtype) for path, x in arrays.items()}
    with new_weights(weights, leaves) as writer:
        for path, array in arrays.items():
            writer.write(path, array)
    write_card(folder, member.card)


def write_card(folder: Path, card: ModelCard) -> None:
    """The card of a model, for people and for programs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TEXT, card_markdown(card))
    write_json(folder / CARD, card_record(card))


def read_member(folder: Path) -> Member:
    """A model and its card.

    Fails: `DamagedCheckpointError` where the bytes are not those of the card.
    """
    card = card_from(read_json(folder / CARD), str(folder / CARD))
    weights = open_weights(folder / WEIGHTS)
    try:
        flat = {path: jnp.asarray(weights.read(path)) for path in weights.leaves}
    finally:
        weights.close()
    params = nested(flat)
    if digest(params) != card.sha256:
        raise DamagedCheckpointError(
            f"{folder / WEIGHTS} is not what {CARD} describes (SHA-256 {card.sha256}); "
            "remove the folder, and the model is trained anew"
        )
    return Member(Network(params, {}), card)
