"""DisTaC for all sources of a merge: who needs it, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, check_choice
from jopt.merging._diagnosis import mean_of_others
from jopt.merging._distac import ApplyFn, DistillResult, distill_task_vector
from jopt.merging._distillation import entropy
from jopt.merging._vectors import Where, is_mergeable, task_vector
from jopt.tree import PyTree, global_norm

# T tasks. Temperatures (teacher, student) as published.
SAME, SHARPENING = (10.0, 10.0), (1.0, 10.0)


def condition_all(
    apply_fns: Sequence[ApplyFn],
    base: PyTree,
    finetuned: Sequence[PyTree],
    data: Sequence[Iterable[Any]],
    *,
    norm: Literal["mean_of_others", "median"] | float | None = "mean_of_others",
    norm_ratio_threshold: float = 2.0,
    entropy_threshold: float | None = None,
    entropy_batches: int = 4,
    where: Where = is_mergeable,
    **settings: Any,
) -> list[DistillResult]:
    """Distills the sources whose vector is too long or that are unsure; skips the rest.

    | source | kappa | temperatures |
    |---|---|---|
    | `norm_ratio_threshold` times the median norm | target / own norm | (10, 10) |
    | entropy over `entropy_threshold` | 1 | (1, 10) |
    | both | target / own norm | (1, 10) |
    | neither | - | skipped: returned as it is |

    Args:
        apply_fns, finetuned, data: one for each task, see `distill_task_vector`. `data`
            must be iterables that can be begun anew where an entropy is asked for.
        norm: the target of vectors that are too long; None leaves norms alone.
        entropy_threshold: in nats; None leaves confidence alone. The entropy is that of
            the first `entropy_batches` batches.
        settings: other arguments of `distill_task_vector`.

    Fails: `ConfigError` for sequences of several lengths, or the mean of others of a
    single task.

    References: Yoshida et al. 2026, DisTaC, arXiv 2508.01148. The thresholds are ours.

    >>> apply_fn = lambda params, x_BD: x_BD @ params["w"]
    >>> base = {"w": jnp.zeros((2, 2))}
    >>> models = [{"w": jnp.eye(2) * size} for size in (1.0, 1.0, 8.0)]
    >>> results = condition_all(
    ...     [apply_fn] * 3, base, models, [[jnp.eye(2)]] * 3, steps=2, log_every=2)
    >>> [result.kappa for result in results]
    [1.0, 1.0, 0.125]
    """
    counts = {len(apply_fns), len(finetuned), len(data)}
    if len(counts) != 1:
        raise ConfigError(
            f"{len(finetuned)} models, {len(apply_fns)} functions and {len(data)} sets "
            "of batches; give one of each for every task"
        )
    norms = [
        float(global_norm(task_vector(base, model, where=where))) for model in finetuned
    ]
    return [
        _condition(
            apply_fns[task],
            base,
            finetuned[task],
            data[task],
            target=_target(norms, task, norm, norm_ratio_threshold),
            sharpen=entropy_threshold is not None
            and source_entropy(
                apply_fns[task], finetuned[task], data[task], entropy_batches
            )
            > entropy_threshold,
            where=where,
            **settings,
        )
        for task in range(len(finetuned))
    ]


def _target(norms: Sequence[float], task: int, norm: Any, threshold: float) -> Any:
    """The norm that a vector should be given; None where it may stay as it is."""
    if isinstance(norm, str):
        check_choice("norm", norm, ("mean_of_others", "median"))
    if norm == "mean_of_others" and len(norms) < 2:
        mean_of_others(norms, task)
    if norm is None or norms[task] <= threshold * float(np.median(norms)):
        return None
    if norm == "mean_of_others":
        return mean_of_others(norms, task)
    return float(np.median(norms)) if norm == "median" else norm


def _condition(
    apply_fn: ApplyFn,
    base: PyTree,
    model: PyTree,
    batches: Iterable[Any],
    *,
    target: float | None,
    sharpen: bool,
    where: Where,
    **settings: Any,
) -> DistillResult:
    if target is None and not sharpen:
        return DistillResult(model, task_vector(base, model, where=where), {}, 1.0)
    temperatures = dict(
        zip(
            ("teacher_temperature", "student_temperature"),
            SHARPENING if sharpen else SAME,
            strict=True,
        )
    )
    return distill_task_vector(
        apply_fn,
        base,
        model,
        batches,
        target_norm=target,
        where=where,
        **{**temperatures, **settings},
    )


def source_entropy(
    apply_fn: Callable[..., Any], params: PyTree, batches: Iterable[Any], count: int
) -> float:
    """The mean entropy of a model's predictions on the first batches, in nats.

    >>> apply_fn = lambda params, x_BD: x_BD @ params["w"]
    >>> params, batches = {"w": jnp.zeros((2, 4))}, [jnp.eye(2)]
    >>> round(source_entropy(apply_fn, params, batches, 1), 4)  # log 4
    1.3863
    """
    found = [
        entropy(apply_fn(params, inputs))
        for inputs, _ in zip(batches, range(count), strict=False)
    ]
    if not found:
        raise ConfigError("there is no batch to measure an entropy on")
    return float(jnp.mean(jnp.concatenate([jnp.ravel(x) for x in found])))
