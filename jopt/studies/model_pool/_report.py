"""What the study of pre-trained models leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

from jopt.data.environments import DomainTask
from jopt.studies._experiment import Row, Summary
from jopt.studies._table_pages import Report
from jopt.studies.model_pool import _analyses, _axes
from jopt.studies.model_pool._figures import accuracies, figures_of
from jopt.studies.model_pool._results import FIGURES, Result, results_of


def summarize(rows: Sequence[Row], *, task: DomainTask, test_env: int) -> Summary:
    """All analyses of the rows of a study."""
    results = results_of(rows)
    examples = task.envs[test_env].source.size
    report = Report(
        f"Pre-trained models out of distribution: {task.name}",
        _introduction(results, task, test_env),
        [
            _analyses.models(results),
            _analyses.lines(results, examples),
            _analyses.robustness(results),
            _axes.size(results),
            _axes.calibration_by_size(results),
            _analyses.calibration_by_accuracy(results),
            _axes.data(results),
            _axes.recipes(results),
            _analyses.temperatures(results),
            _analyses.choice(results, task.name),
        ],
        figures_of(results),
    )
    return Summary(
        report.text,
        [_row(result) for result in results],
        lambda path: accuracies(results, path),
        report.write,
    )


def _introduction(results: Sequence[Result], task: DomainTask, test_env: int) -> str:
    trained = [env.name for e, env in enumerate(task.envs) if e != test_env]
    seeds = {len(result.figures["ood_acc"]) for result in results}
    models = len({result.model for result in results})
    edge = sum(result.at_edge for result in results)
    rising = sum(result.still_rising for result in results)
    runs = sum(len(result.figures["ood_acc"]) for result in results)
    return (
        f"{task.name}: {models} models, fine-tuned on {', '.join(trained)}, test on "
        f"{task.envs[test_env].name}, {max(seeds)} seeds of splits and order of "
        "examples; a model is pre-trained once. ID is the mean over the held-out parts "
        "of the training environments, OOD over both parts of the test environment. "
        f"{edge} of {len(results)} chosen learning rates are the smallest or the "
        f"largest one tried; {rising} of {runs} runs have their best ID accuracy at "
        "their last evaluation."
    )


def _row(result: Result) -> Row:
    """A line for each model and optimizer, in full; accuracies from 0 to 1."""
    known = result._asdict()
    del known["figures"]
    means = {name: f"{result.mean(name):.6g}" for name in FIGURES}
    deviations = {f"{name}_sd": f"{result.deviation(name):.6g}" for name in FIGURES}
    return {**known, "at_edge": int(result.at_edge), **means, **deviations}
