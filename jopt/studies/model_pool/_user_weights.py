"""A user's own parameters as a model of the pool: `--weights=ARCHITECTURE:FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.studies.model_pool._architectures import (
    FAMILIES,
    HEAD,
    Shape,
    build,
    feature_dim,
    num_params,
    shapes_of,
)
from jopt.studies.model_pool._cards import UNKNOWN, ModelCard, family_of
from jopt.studies.model_pool._store import Member
from jopt.studies.model_pool._torch_names import NAMED, has_torch_names
from jopt.studies.model_pool._training import Network
from jopt.tree import digest, named_leaves
from jopt.weights import (
    Leaf,
    NamedWeights,
    Piece,
    Rule,
    open_weights,
    plain_layout,
    torch_layout,
)
from jopt.weights._layout import STATE
from jopt.weights._weights import fingerprint, nested


class UserWeights(NamedTuple):
    """A file, and what its parameters are of.

    Attributes:
        architecture: as of `build`.
        path: what `jopt.weights.open_weights` opens.
        sha256: of the file, so that another one is another model.
        rules: from the names of torch; none where names are those of jopt, or the
            published ones of the family.
    """

    architecture: str
    path: str
    sha256: str
    rules: tuple[Rule, ...] = ()


def parse_weights(text: str, rules: Sequence[Rule] = ()) -> UserWeights:
    """What a flag `--weights=ARCHITECTURE:FILE` names.

    Fails: `ConfigError` without an architecture, and where nothing is there.
    """
    architecture, colon, path = text.partition(":")
    if not colon or not path:
        listed = ", ".join(f"{family}_NUMBER" for family in FAMILIES)
        raise ConfigError(
            f"--weights={text}: expected ARCHITECTURE:FILE, such as cnn_16:{text}; "
            f"architectures are {listed}"
        )
    opened = open_weights(path)
    opened.close()
    sha256 = fingerprint(Path(path), opened.files)
    return UserWeights(architecture, path, sha256, tuple(rules))


def user_member(given: UserWeights, input_shape: Shape, num_classes: int) -> Member:
    """The model in a file, in float32. Its head is not read: it gets a new one.

    Fails: `ConfigError` with the file and the paths in it that are missing, unknown, or
    of another shape than those of the architecture.
    """
    model = build(given.architecture, input_shape, num_classes)
    params, state = shapes_of(model, input_shape)
    wanted = {
        **named_leaves(params),
        **{STATE + path: leaf for path, leaf in named_leaves(state).items()},
    }
    with_head = {path: leaf for path, leaf in wanted.items() if _is_head(path)}
    body = {path: leaf for path, leaf in wanted.items() if path not in with_head}
    weights = open_weights(given.path)
    try:
        named = NamedWeights(weights, _pieces(given, weights.leaves))
        _check(given, named, body)
        arrays: dict[str, Any] = {
            path: jnp.asarray(named.read(path), leaf.dtype)
            for path, leaf in body.items()
        }
    finally:
        weights.close()
    heads = {path: jnp.zeros(x.shape, x.dtype) for path, x in with_head.items()}
    own = {k: x for k, x in arrays.items() if not k.startswith(STATE)}
    statistics = {k.removeprefix(STATE): x for k, x in arrays.items() if k not in own}
    network = Network(nested({**own, **heads}), nested(statistics))
    return Member(network, _card(given, network, input_shape, num_classes))


def _pieces(given: UserWeights, leaves: Mapping[str, Leaf]) -> Sequence[Piece]:
    """By the user's rules, by the published names of the family, or as they are."""
    if given.rules:
        return torch_layout(leaves, given.rules)
    family = family_of(given.architecture)
    if family in NAMED and has_torch_names(list(leaves)):
        return NAMED[family](given.architecture, leaves)
    return plain_layout(leaves).pieces


def _is_head(path: str) -> bool:
    return path.startswith(f"{HEAD}/")


def _check(given: UserWeights, named: NamedWeights, body: Mapping[str, Any]) -> None:
    found = {path: x.shape for path, x in named.leaves.items() if not _is_head(path)}
    faults = [f"{path} {body[path].shape} is missing" for path in body.keys() - found]
    faults += [f"{path} {found[path]} is unknown" for path in found.keys() - body]
    faults += [
        f"{path} has shape {found[path]}, expected {body[path].shape}"
        for path in found.keys() & body.keys()
        if found[path] != body[path].shape
    ]
    if faults:
        more = f"\n  and {len(faults) - 8} more" if len(faults) > 8 else ""
        listed = "\n  ".join(sorted(faults)[:8])
        raise ConfigError(
            f"{given.path} does not hold the parameters of {given.architecture}:\n"
            f"  {listed}{more}\n"
            "name its architecture, or with --names=RULES.json say what its names mean"
        )


def _card(
    given: UserWeights, network: Network, shape: Shape, num_classes: int
) -> ModelCard:
    model = build(given.architecture, shape, num_classes)
    return ModelCard(
        name=f"own-{Path(given.path).stem}-{given.sha256[:8]}",
        family=family_of(given.architecture),
        architecture=given.architecture,
        n_params=num_params(model, shape),
        input_shape=shape,
        feature_dim=feature_dim(model, shape),
        dataset=UNKNOWN,
        n=None,
        share=None,
        numbers_sha256=UNKNOWN,
        disjoint_from=f"{UNKNOWN}: what this file was trained on is not known here",
        recipe={"name": "own"},
        accuracy=None,
        sha256=digest(network.params),
        licence=UNKNOWN,
        command=f"--weights={given.architecture}:{given.path}",
    )
