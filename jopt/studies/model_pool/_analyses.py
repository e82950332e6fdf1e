"""Analyses over all models of the pool, as tables: P1, P4, temperatures, the choice.

P1 OOD by ID accuracy, P4 calibration by accuracy. After Naganuma et al., 2025, arXiv
2307.08187; intervals, temperatures and fits are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jopt.objectives.calibration import at_end
from jopt.studies._numbers import UNKNOWN, interval, number
from jopt.studies._table_pages import Table
from jopt.studies.model_pool._results import (
    Result,
    best_by,
    families,
    optimizers,
    values,
)
from jopt.studies.model_pool._text import (
    NAMES,
    count_text,
    percent,
    spread,
)
from jopt.studies.statistics import (
    effective_robustness,
    fit_line,
    line_intervals,
    stratified_interval,
)

SMALLEST_GROUP = 4  # models of which a line is fitted
# OOD accuracy in %, published: set, ERM with ResNet-50, best algorithm, best model.
PUBLISHED = (
    ("PACS", 88.1, 89.1, 96.7, 7.7),
    ("OfficeHome", 62.7, 64.7, 87.4, 22.7),
    ("DomainNet", 58.4, 59.5, 77.8, 18.3),
    ("VLCS", 76.4, 77.5, 82.2, 4.7),
)


def models(results: Sequence[Result]) -> Table:
    """P1: every model, the best OOD accuracy first."""
    order = sorted(results, key=lambda r: -np.nan_to_num(r.mean("ood_acc"), nan=-1.0))
    rows = [
        [
            result.model,
            result.optimizer,
            f"{result.n_params:,}",
            count_text(result.n),
            result.recipe,
            percent(result.accuracy),
            f"{result.rate:g}" + ("*" if result.at_edge else ""),
            *(spread(result, name) for name in ("id_acc", "ood_acc", "ood_ece")),
        ]
        for result in order
    ]
    header = (
        *("model", "optimizer", "parameters", "images", "recipe", "pre-training, %"),
        *("rate", "ID accuracy, %", "OOD accuracy, %", "OOD ECE, %"),
    )
    note = (
        "Mean ± standard deviation over seeds of the fine-tuning. Pre-training: "
        "accuracy on its held-out images. Rate: the best ID accuracy of those tried; * "
        "is the smallest or the largest of them."
    )
    return Table("p1_models", "P1 OOD and ID accuracy", note, header, rows)


def lines(results: Sequence[Result], examples: int) -> Table:
    """P1: least squares of OOD by ID accuracy, raw and as probits, by family."""
    rows = []
    for optimizer, group, own in _groups(results):
        inside, outside = values(own, "id_acc"), values(own, "ood_acc")
        for scale, count in (("accuracy", 0), ("probit", examples)):
            found = line_intervals(inside, outside, examples=count)
            numbers = (found.slope, found.intercept, found.r_squared, found.spearman)
            rows.append(
                [
                    optimizer,
                    group,
                    str(found.runs),
                    scale,
                    *(interval(x, 2) for x in numbers),
                ]
            )
    header = ("optimizer", "family", "models", "scale", "slope", "intercept", "R²")
    note = (
        "95 % intervals by drawing models anew. Models share their data, so other "
        f"data may differ by more. Families of fewer than {SMALLEST_GROUP} models "
        "have no interval."
    )
    title = "P1 Lines through OOD by ID accuracy"
    return Table("p1_lines", title, note, (*header, "Spearman ρ"), rows)


def robustness(results: Sequence[Result]) -> Table:
    """P1: how far a family lies over the line of all other families."""
    rows = []
    for optimizer in optimizers(results):
        own = _finite([r for r in results if r.optimizer == optimizer])
        for family in families(own):
            those = [r for r in own if r.family == family]
            others = [r for r in own if r.family != family]
            line = fit_line(values(others, "id_acc"), values(others, "ood_acc"))
            over = effective_robustness(
                line, values(those, "id_acc"), values(those, "ood_acc")
            )
            found = _mean(100 * over)
            rows.append([optimizer, family, str(len(those)), str(len(others)), found])
    header = ("optimizer", "family", "models", "others", "over the line, points")
    note = (
        "OOD accuracy minus what the line through the other families' models expects "
        "at this ID accuracy: mean and 95 % interval over models, the line given."
    )
    title = "P1 Effective robustness of families"
    return Table("p1_robustness", title, note, header, rows)


def calibration_by_accuracy(results: Sequence[Result]) -> Table:
    """P4: how OOD ECE follows OOD accuracy."""
    rows = []
    for optimizer, group, own in _groups(results):
        for figure in ("ood_ece", "ood_ece_scaled"):
            found = line_intervals(values(own, "ood_acc"), values(own, figure))
            numbers = (found.slope, found.r_squared, found.spearman)
            label = NAMES[figure].removesuffix(", %")
            rows.append(
                [
                    optimizer,
                    group,
                    str(found.runs),
                    label,
                    *(interval(x, 2) for x in numbers),
                ]
            )
    header = ("optimizer", "family", "models", "ECE", "slope", "R²", "Spearman ρ")
    note = "Least squares by OOD accuracy, both from 0 to 1; intervals as in P1."
    title = "P4 OOD ECE by OOD accuracy"
    return Table("p4_calibration", title, note, header, rows)


def temperatures(results: Sequence[Result]) -> Table:
    """What a temperature from ID data repairs, and what the best one would."""
    figures = (
        *("id_ece", "id_ece_scaled", "ood_ece", "ood_ece_scaled", "ood_ece_oracle"),
        "ood_gap",
    )
    rows = [
        [
            result.model,
            result.optimizer,
            number(result.mean("temperature"), 2),
            *(spread(result, name) for name in figures),
        ]
        for result in results
    ]
    bound = sum(_at_bound(result) for result in results)
    header = ("model", "optimizer", "T", *(NAMES[name] for name in figures))
    note = (
        "T is fitted to held-out images of the training environments; `oracle` to the "
        "test environment itself, as a bound. Confidence minus accuracy is above 0 for "
        f"an overconfident model. At an end of [e^-5, e^5]: {bound} models."
    )
    title = "Temperature scaling"
    return Table("temperatures", title, note, header, rows)


def choice(results: Sequence[Result], task: str) -> Table:
    """What choosing a model gains, beside the published figures."""
    rows = [
        [
            f"{name} (published)",
            *(f"{x:.1f}" for x in (erm, algorithm, best)),
            f"{best - erm:+.1f}",
            f"{gain:+.1f}",
        ]
        for name, erm, algorithm, best, gain in PUBLISHED
    ]
    for optimizer in optimizers(results):
        own = [r for r in results if r.optimizer == optimizer]
        start = next((r for r in own if _is_reference(r)), None)
        for how, figure in (("ID", "id_acc"), ("OOD", "ood_acc")):
            best = best_by(own, figure)
            name = UNKNOWN if best is None else best.model
            label = f"{task}, {optimizer}: {name}, best by {how} accuracy"
            rows.append([label, *_gain(start, best)])
    header = (
        *("task", "reference, OOD %", "best algorithm, OOD %", "best model, OOD %"),
        *("over the reference, points", "over the algorithm, points"),
    )
    note = (
        "Reference: ERM with ResNet-50 as published; here the cnn of width 1, all "
        "images, no recipe, where it is in the pool. Published gains are over the best "
        "algorithm; those over the reference are differences of published figures. "
        "Whether the published best was chosen without the test is not known here; "
        "ours is given by ID accuracy, and by OOD accuracy as a bound."
    )
    return Table("choice", "What the choice of a model gains", note, header, rows)


def _gain(start: Result | None, best: Result | None) -> list[str]:
    """Of the reference, the best model, and the difference; no algorithm is tried."""
    accuracies = [math.nan if r is None else r.mean("ood_acc") for r in (start, best)]
    difference = 100 * (accuracies[1] - accuracies[0])
    gain = UNKNOWN if math.isnan(difference) else f"{difference:+.1f}"
    return [percent(accuracies[0]), UNKNOWN, percent(accuracies[1]), gain, UNKNOWN]


def _is_reference(result: Result) -> bool:
    return result.family == "cnn" and result.factor == 1 and result.on_size_axis


def _groups(results: Sequence[Result]) -> Iterator[tuple[str, str, list[Result]]]:
    """Optimizer, family or `all`, and their models."""
    for optimizer in optimizers(results):
        own = [r for r in results if r.optimizer == optimizer]
        yield optimizer, "all", own
        for family in families(own):
            yield optimizer, family, [r for r in own if r.family == family]


def _finite(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if not math.isnan(r.mean("ood_acc"))]


def _at_bound(result: Result) -> bool:
    return any(at_end(temperature) for temperature in result.figures["temperature"])


def _mean(x: np.ndarray) -> str:
    if np.isnan(x).any():  # no line
        return UNKNOWN
    found = stratified_interval([x], lambda y: float(y.mean()))
    return interval(found, digits=1)
