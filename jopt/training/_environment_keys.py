"""The keys of a config that are about environments, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jopt.data.environments import (
    ENVIRONMENT_SETS,
    FOLDER_SETS,
    ON_DISK,
    Asked,
    EnvironmentSet,
    environment_set,
)
from jopt.errors import did_you_mean
from jopt.training._algorithm_keys import (
    ALGORITHM,
    algorithm_faults,
    environment_faults,
)
from jopt.training._image_keys import shape_faults

# Of `data`, and without meaning where there are no environments.
_OWN = {
    "root": None,
    "image_size": None,
    "test_envs": None,
    "environments": None,
    "trial_seed": 0,
}
# What works on microbatches, on replicas or on the plain loss, and images as stored.
_LEFT_ALONE: dict[str, Any] = {
    "objective.loss": "cross_entropy",
    "objective.label_smoothing": 0.0,
    "oracle.name": "value_and_grad",
    "oracle.half_difference": False,
    "local_updates.name": "none",
    "train.accumulation": 1,
    "train.adaptive_batch.enabled": False,
    "optim.whole_tree.qk_clip": None,
    "monitor.curvature.every_steps": 0,
    "data.augment": "none",
    "data.domain_shards": 1,
    "data.path": None,
    "eval.stride": None,
    "eval.corruptions": (),
    "eval.shifts": (),
}


def is_on(config: ConfigDict) -> bool:
    """Whether a run trains on environments, by an algorithm over them."""
    return config.objective.algorithm.name != "none"


def names_set(config: ConfigDict) -> bool:
    """Whether the name of the data is looked at here: with an algorithm, or a set's."""
    return is_on(config) or config.data.name in ENVIRONMENT_SETS


def asked_of(config: ConfigDict) -> Asked:
    """How the set of a config is to be read."""
    own = config.data
    asked = Asked(own.root, seq_len=own.seq_len, environments=own.environments)
    return (
        asked if own.image_size is None else asked._replace(image_size=own.image_size)
    )


def environments_of(config: ConfigDict) -> EnvironmentSet:
    """The set of `data.name`, with the test environments of the run."""
    own = config.data
    found = environment_set(own.name, asked_of(config))
    if own.test_envs is None:
        return found
    return found._replace(test_envs=tuple(own.test_envs))


def faults(config: ConfigDict, values: Mapping[str, Any]) -> Iterator[str]:
    """A message for each key that cannot work with environments, or without them.

    Args:
        config: of a run.
        values: its leaves, by dotted key.
    """
    if not is_on(config):
        yield from _without(config)
        return
    for key, plain in _LEFT_ALONE.items():
        value = tuple(values[key]) if isinstance(plain, tuple) else values[key]
        if value != plain:
            yield (
                f"{key} is {values[key]!r}, which does not go with {ALGORITHM} = "
                f"{config.objective.algorithm.name!r}; leave it at {plain!r}"
            )
    yield from algorithm_faults(config)
    wrong = list(_data_faults(config))
    yield from wrong
    if not wrong:
        yield from _set_faults(config, environments_of(config))


def _without(config: ConfigDict) -> Iterator[str]:
    name = config.data.name
    if name in ENVIRONMENT_SETS:
        yield (
            f"data.name is {name!r}, which has environments; set {ALGORITHM}, 'erm' "
            "for the mean of their risks"
        )
        return
    for key, plain in _OWN.items():
        if config.data[key] != plain:
            yield (
                f"data.{key} is {config.data[key]!r}, which is for environments; set "
                f"{ALGORITHM}, or leave it out"
            )


def _data_faults(config: ConfigDict) -> Iterator[str]:
    """Whether the set can be asked for what is known of it."""
    own = config.data
    if own.name not in ENVIRONMENT_SETS:
        hint = did_you_mean(own.name, ENVIRONMENT_SETS)
        yield (
            f"data.name is {own.name!r}; with {ALGORITHM} one of "
            f"{list(ENVIRONMENT_SETS)} is expected{hint}"
        )
        return
    if own.name in ON_DISK and own.root is None:
        yield (
            f"data.root is not set; data.name = {own.name!r} is read from a folder of "
            "yours, name it"
        )
    if own.name not in ON_DISK and own.root is not None:
        yield (
            f"data.root is {own.root!r}, but data.name = {own.name!r} comes from a "
            "package; leave it out"
        )
    many = own.name == "amazon"
    if many and own.environments is None:
        yield (
            "data.environments is not set; amazon has thousands of users, say how many "
            "of those with most reviews are read"
        )
    if not many and own.environments is not None:
        yield (
            f"data.environments is {own.environments}, which is for data.name = "
            "'amazon'; leave it out"
        )
    if own.name not in (*FOLDER_SETS, "folders") and own.image_size is not None:
        yield (
            f"data.image_size is {own.image_size}, which is for images in folders, and "
            f"data.name is {own.name!r}; leave it out"
        )
    # Below 4 no quarter of them is left for a test.
    least = {"image_size": 1, "environments": 4 if own.test_envs is None else 1}
    for key, count in least.items():
        if own[key] is not None and own[key] < count:
            yield f"data.{key} is {own[key]}; it must be at least {count}"


def _set_faults(config: ConfigDict, found: EnvironmentSet) -> Iterator[str]:
    """Whether the run fits the set."""
    name, count = config.data.name, found.num_environments
    if config.objective.name != found.kind:
        yield (
            f"objective.name is {config.objective.name!r}; data.name = {name!r} is for "
            f"{found.kind!r}"
        )
    if found.kind == "classification":
        yield from shape_faults(config, found.input_shape, found.num_classes)
    tests = found.test_envs
    if len(set(tests)) < len(tests) or not all(
        isinstance(e, int) and 0 <= e < count for e in tests
    ):
        yield (
            f"data.test_envs is {tests}; different numbers from 0 to {count - 1} are "
            f"expected, of the {count} environments of {name!r}"
        )
        return
    trained = found.train_envs
    if not trained:
        yield f"data.test_envs is {tests}, so no environment is left to train on"
        return
    yield from environment_faults(config, len(trained))
    rows, rest = divmod(config.train.batch_size, len(trained))
    if rest:
        yield (
            f"train.batch_size is {config.train.batch_size}; it holds equally many "
            f"rows of each of the {len(trained)} training environments of {name!r}, "
            f"so take {(rows + 1) * len(trained)}"
        )
