"""Which source of a merge is harmful, and what to do about it, in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jopt.errors import ConfigError
from jopt.merging._algebra import cosine_matrix, task_norms
from jopt.merging._vectors import task_count
from jopt.tree import PyTree

# T tasks.


class Diagnosis(NamedTuple):
    """What `diagnose` finds.

    Attributes:
        norms: ||tau_t||, (T,).
        norm_ratios: over their median, (T,).
        cosines: (T, T).
        entropies: of the sources in nats, (T,), or None.
        too_long, unsure: tasks, by number.
        findings: one sentence for each thing that is wrong, with the next step.
    """

    norms: np.ndarray
    norm_ratios: np.ndarray
    cosines: np.ndarray
    entropies: np.ndarray | None
    too_long: tuple[int, ...]
    unsure: tuple[int, ...]
    findings: tuple[str, ...]


def diagnose(
    stacked: PyTree,
    entropies: Any = None,
    *,
    names: Sequence[str] | None = None,
    norm_ratio_threshold: float = 2.0,
    entropy_threshold: float = 0.3,
    cosine_threshold: float = 0.9,
) -> Diagnosis:
    """Looks for sources that break a merge: long vectors, low confidence, near copies.

    A vector far longer than the others decides the merged direction alone: for
    orthogonal vectors of norms in the ratio d < 1 the cosine of their sum with the
    shorter is d / sqrt(1 + d^2). A source that is unsure has small margins, which do
    not survive the other vectors. Low confidence is the more harmful (published).

    Args:
        entropies: mean predictive entropy of each source on its task, in nats, (T,).
        names: of the tasks, for the sentences.
        norm_ratio_threshold: to the median.
        entropy_threshold: ours: a cosine head on ten digits had 0.06 nats as trained,
            and 0.67, with which it merged badly, after label smoothing.
        cosine_threshold: beyond it, in size, two vectors are said to be alike or
            opposed.

    References: Yoshida et al. 2026, DisTaC, arXiv 2508.01148.

    >>> import jax.numpy as jnp
    >>> tasks = {"w": jnp.diag(jnp.array([1.0, 1.2, 9.0]))}
    >>> found = diagnose(tasks, [0.05, 0.7, 0.05], names=["a", "b", "c"])
    >>> found.too_long, found.unsure
    ((2,), (1,))
    >>> print(found.findings[0])
    c: its task vector has norm 9, 7.5 times the median; the merged direction will be \
its alone. Shorten it by distill_task_vector(target_norm=1.1, teacher_temperature=10, \
student_temperature=10), or by rescale_norm("min") without data.
    """
    count = task_count(stacked)
    labels = [f"task {t}" for t in range(count)] if names is None else list(names)
    found = None if entropies is None else np.asarray(entropies, float)
    if len(labels) != count or (found is not None and found.shape != (count,)):
        raise ConfigError(
            f"{count} tasks need {count} names and entropies, found {len(labels)} and "
            f"{None if found is None else found.shape}"
        )
    norms, cosines = np.asarray(task_norms(stacked)), np.asarray(cosine_matrix(stacked))
    median = float(np.median(norms))
    ratios = norms / median if median > 0 else np.where(norms > 0, np.inf, 1.0)
    long = [t for t in range(count) if ratios[t] > norm_ratio_threshold]
    unsure = [] if found is None else list(np.flatnonzero(found > entropy_threshold))
    sentences = [
        *(_too_long(labels[t], norms, ratios, t) for t in long),
        *(_unsure(labels[t], found[t], t in long) for t in unsure if found is not None),
        *_zeros(labels, norms),
        *_pairs(labels, cosines, cosine_threshold),
    ]
    return Diagnosis(
        norms,
        ratios,
        cosines,
        found,
        tuple(long),
        tuple(int(t) for t in unsure),
        tuple(sentences),
    )


def mean_of_others(norms: Any, task: int) -> float:
    """The mean norm of the other task vectors: what a long one is shortened to.

    >>> mean_of_others([1.0, 3.0, 9.0], 2)
    2.0
    """
    others = np.delete(np.asarray(norms, float), task)
    if not others.size:
        raise ConfigError(
            "one task vector has no others whose mean norm it could take; give a number"
        )
    return float(np.mean(others))


def _too_long(label: str, norms: np.ndarray, ratios: np.ndarray, task: int) -> str:
    return (
        f"{label}: its task vector has norm {norms[task]:.3g}, {ratios[task]:.3g} "
        "times the median; the merged direction will be its alone. Shorten it by "
        f"distill_task_vector(target_norm={mean_of_others(norms, task):.3g}, "
        "teacher_temperature=10, student_temperature=10), or by "
        'rescale_norm("min") without data.'
    )


def _unsure(label: str, entropy: float, also_long: bool) -> str:
    tail = " together with the shorter norm" if also_long else ""
    return (
        f"{label}: its predictions have an entropy of {entropy:.3g} nats; small "
        "margins do not survive merging. Sharpen it by distill_task_vector("
        f"teacher_temperature=1, student_temperature=10){tail}, and fit a temperature "
        "to the merged model, which will be too sure."
    )


def _zeros(labels: Sequence[str], norms: np.ndarray) -> list[str]:
    return [
        f"{label}: its task vector is zero; it is the base model and dilutes means."
        for label, norm in zip(labels, norms, strict=True)
        if norm == 0
    ]


def _pairs(labels: Sequence[str], cosines: np.ndarray, threshold: float) -> list[str]:
    sentences = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        pair = f"{labels[i]} and {labels[j]}: their task vectors have cosine"
        if cosines[i, j] > threshold:
            sentences.append(
                f"{pair} {cosines[i, j]:.2f}, so that what they share counts twice; "
                "lower the weights of both, or merge one of them."
            )
        elif cosines[i, j] < -threshold:
            sentences.append(
                f"{pair} {cosines[i, j]:.2f}, so that they undo each other; no merge "
                "keeps both."
            )
    return sentences
