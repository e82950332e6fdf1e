"""A task over environments: what a model is worth in each of them, ID and OOD."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jopt.data.environments import PARTS, EnvironmentSet, read_set
from jopt.objectives.groups import (
    Groups,
    percentile_accuracy,
    worst_group_accuracy,
)
from jopt.training._environment_keys import asked_of, environments_of
from jopt.training._environment_source import EnvironmentSource
from jopt.training._evaluation import by_domain
from jopt.training._task import Task, Totals

Results = dict[str, float]
# What is kept of a part of an environment, and its name in `env{e}_{part}_{name}`. The
# loss is a plain cross-entropy here, of images and of text.
FIGURES = {"accuracy": "acc", "ece": "ece", "loss": "nll", "bits_per_byte": "bits"}
_UNSEEN = (*FIGURES, "nll")


class Judged(NamedTuple):
    """A figure of the accuracies of test environments.

    Attributes:
        name: of the result, behind `eval/ood/`.
        words: in a sentence, behind "OOD".
        figure: from their sums.
    """

    name: str
    words: str
    figure: Callable[[Groups], jax.Array]


# By `EnvironmentSet.over_tests`, but for the mean.
OVER_TESTS = {
    "worst": Judged("worst_accuracy", "of the worst", worst_group_accuracy),
    "percentile_10": Judged(
        "accuracy_10th_percentile",
        "at the 10th percentile",
        functools.partial(percentile_accuracy, percentile=10),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentTask(Task):
    """A task whose sums are those of both parts of every environment.

    Domain 2 e + p is part p of environment e: `in`, which is trained on unless e is a
    test, and `out`, held out.

    Attributes:
        tests: numbers of the environments that are never trained on.
        trained: those of the others.
        over_tests: as in `EnvironmentSet`.
    """

    tests: tuple[int, ...]
    trained: tuple[int, ...]
    over_tests: str = "mean"

    def results(self, totals: Totals) -> Results:
        """ID, OOD and of each part of each environment.

        `eval/accuracy`, `eval/loss` and so on are ID: means over the training
        environments of the part held out, each environment alike; so is
        `eval/worst_accuracy`, of the worst of them. `eval/ood/...` are means over both
        parts of the test environments; `eval/ood/worst_accuracy` or
        `eval/ood/accuracy_10th_percentile`, where the set is judged by it, is of their
        accuracies, each of both parts together. `eval/env{e}_{part}_{figure}` are
        named as in `jopt.studies.selection`.
        """
        if f"domain_{self.count}" not in totals:
            return super().results(totals)
        numbers = [str(n) for n in range(len(totals[f"domain_{self.count}"]))]
        of_part = [
            super(EnvironmentTask, self).results(own)
            for own in by_domain(totals, numbers).values()
        ]
        held_out = [of_part[2 * e + 1] for e in self.trained]
        unseen = [of_part[2 * e + part] for e in self.tests for part in (0, 1)]
        counted = f"eval/{self.count}"
        return {
            **_means(held_out),
            counted: sum(own[counted] for own in held_out),
            "eval/worst_accuracy": _smallest([x["eval/accuracy"] for x in held_out]),
            **_unseen(unseen),
            **self._over_tests(totals),
            **_named(of_part),
        }

    def describe(self, results: Results, split: str = "validation") -> str:
        """The headline ID and, where there is a test environment, OOD."""
        metric, unit = self.headline
        ood = results.get(metric.replace("eval/", "eval/ood/"), math.nan)
        if f"eval/env0_{PARTS[0]}_acc" not in results:
            return super().describe(results, split)
        said = f"{results[metric]:.4f} ID {unit}"
        said = said if math.isnan(ood) else f"{said}, {ood:.4f} OOD"
        judged = OVER_TESTS.get(self.over_tests)
        if judged is None or math.isnan(ood):
            return said
        return f"{said}, {results[f'eval/ood/{judged.name}']:.4f} OOD {judged.words}"

    def _over_tests(self, totals: Totals) -> Results:
        """What the set is judged by beside the mean; none without a test."""
        judged = OVER_TESTS.get(self.over_tests)
        if judged is None or not self.tests:
            return {}
        counts, correct = (
            totals[f"domain_{x}"].reshape(-1, len(PARTS)).sum(1)[list(self.tests)]
            for x in (self.count, "correct")
        )
        return {
            f"eval/ood/{judged.name}": float(judged.figure(Groups(counts, correct)))
        }


def over_environments(task: Task, config: ConfigDict) -> EnvironmentTask:
    """A task of one kind of data made into that over the environments of a config."""
    found = environments_of(config)
    fields = {
        field.name: getattr(task, field.name) for field in dataclasses.fields(Task)
    }
    if found.kind == "classification":
        fields["example_batch"] = functools.partial(_row, found)
    fields["sums"] = functools.partial(
        task.sums, num_domains=2 * found.num_environments
    )
    fields["load"] = _load
    return EnvironmentTask(
        **fields,
        tests=found.test_envs,
        trained=found.train_envs,
        over_tests=found.over_tests,
    )


def _load(config: ConfigDict) -> EnvironmentSource:
    task = read_set(config.data.name, asked_of(config))
    return EnvironmentSource(config, task, environments_of(config).test_envs)


def _row(found: EnvironmentSet, config: ConfigDict) -> dict[str, np.ndarray]:
    # What has one axis is text.
    dtype = np.int32 if len(found.input_shape) == 1 else np.float32
    return {
        "inputs": np.zeros((1, *found.input_shape), dtype),
        "targets": np.zeros(1, np.int32),
        "mask": np.ones(1, np.float32),
        "domain": np.zeros(1, np.int32),
    }


def _smallest(values: Sequence[float]) -> float:
    """NaN where one of them is: `min` would go by their order."""
    return float(np.min(values))


def _means(results: Sequence[Results]) -> Results:
    return {name: float(np.mean([own[name] for own in results])) for name in results[0]}


def _unseen(results: Sequence[Results]) -> Results:
    """OOD figures, of the parts of test environments; none without any."""
    if not results:
        return {}
    means = _means(results)
    names = (name for name in _UNSEEN if f"eval/{name}" in means)
    return {f"eval/ood/{name}": means[f"eval/{name}"] for name in names}


def _named(of_part: Sequence[Results]) -> Results:
    """The figures of each part of each environment, by its place."""
    return {
        f"eval/env{number // 2}_{PARTS[number % 2]}_{short}": own[f"eval/{name}"]
        for number, own in enumerate(of_part)
        for name, short in FIGURES.items()
        if f"eval/{name}" in own
    }
