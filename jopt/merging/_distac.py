"""DisTaC: giving a task vector another norm or more confidence, by distillation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jopt.errors import ConfigError, JoptWarning, check_choice
from jopt.merging._algebra import scale
from jopt.merging._descend import descend, descend_over
from jopt.merging._student import ApplyFn, Distillation, NormMode, Student
from jopt.merging._vectors import (
    TaskVector,
    Where,
    apply_task_vector,
    is_mergeable,
    task_vector,
)
from jopt.tree import PyTree, global_norm

# K steps.


class DistillResult(NamedTuple):
    """What `distill_task_vector` returns.

    Attributes:
        params: theta_0 + tau', in the dtypes of the base.
        task_vector: tau'.
        history: `step`, `loss` (without the penalty), `norm` of the vector, `entropy`
            of the student in nats, and `teacher_agreement`, the part of the batch where
            both choose the same class; before each logged step. Empty if skipped.
        kappa: the scale of the anchor.
    """

    params: PyTree
    task_vector: TaskVector
    history: dict[str, np.ndarray]
    kappa: float


def distill(
    apply_fn: ApplyFn,
    base: PyTree,
    tv: TaskVector,
    inputs: PyTree,
    settings: Distillation,
    optimizer: optax.GradientTransformation,
    *,
    keys: jax.Array | None = None,
) -> tuple[TaskVector, dict[str, jax.Array]]:
    """The steps of `distill_task_vector` on given batches, as one scan of pure arrays.

    It can be traced: `jax.vmap` over tasks or seeds is one program for all of them.

    Args:
        inputs: (K, B, ...), the batches of the K steps.
        keys: (K,), for a student with dropout.

    Returns: tau', and the history of all K steps.

    >>> import jax.numpy as jnp
    >>> apply_fn = lambda params, x_BD: x_BD @ params["w"]
    >>> base, tv = {"w": jnp.zeros((2, 3))}, {"w": jnp.ones((2, 3))}
    >>> found, history = distill(
    ...     apply_fn, base, tv, jnp.ones((4, 5, 2)), Distillation(), optax.sgd(0.1))
    >>> found["w"].tolist() == tv["w"].tolist(), history["loss"].tolist()
    (True, [0.0, 0.0, 0.0, 0.0])
    """
    student = Student.of(apply_fn, base, tv, settings)
    tx = student.with_anchor(optimizer)
    (params, _), history = descend(
        student.loss,
        (student.start, tx.init(student.start)),
        (inputs, keys),
        tx,
        frozen=student.frozen,
        project=student.projection,
    )
    return student.vector(params, tv), history


def distill_task_vector(
    apply_fn: ApplyFn,
    base: PyTree,
    finetuned: PyTree,
    batches: Iterable[Any],
    *,
    kappa: float = 1.0,
    target_norm: float | None = None,
    teacher_temperature: Any = 1.0,
    student_temperature: Any = 1.0,
    beta: Any = 0.1,
    steps: int = 500,
    optimizer: optax.GradientTransformation | None = None,
    key: jax.Array | None = None,
    norm_mode: NormMode = "penalty",
    decoupled: optax.ScalarOrSchedule | None = None,
    log_every: int = 50,
    where: Where = is_mergeable,
) -> DistillResult:
    """A task vector with another norm or more confidence, and the same predictions.

    The student starts at theta_a = theta_0 + kappa tau and learns from the fine-tuned
    model, without labels:

        loss = distillation_loss + beta ||theta - theta_a||^2

    A vector that is too long is shortened with kappa < 1 and temperatures (10, 10); a
    model with little confidence is sharpened with kappa = 1 and (1, 10). `steps=0` only
    rescales.

    Args:
        apply_fn: (params, inputs) -> logits (B, C), with the frozen head and frozen
            batch statistics closed over, in evaluation mode.
        base, finetuned: parameters of the encoder.
        batches: unlabelled inputs of the task; begun anew when they end.
        kappa: the scale of the anchor. More than 1 is likely to hurt, and warns.
        target_norm: instead, the norm that kappa ||tau|| should be.
        optimizer: receives the gradient of the whole loss, penalty included; clipping
            to norm 1 and Adam, its rate rising to 1e-5 in 500 steps, by default.
        key: with it the student is called as `apply_fn(params, inputs, key=...)`, a new
            key each step, for dropout; the teacher never is.
        norm_mode, decoupled: see `Distillation`.
        where: leaves that are distilled; the others stay those of the base.

    A vector of zeros is returned as it is, with kappa 1 and a warning. Parameters are
    float32 at least while they are distilled. Cost of a step: two forward passes and a
    backward one; no labels; memory of the base, the student and the optimizer's state.

    Fails: `ConfigError` for models that differ, by path; both `kappa` and
    `target_norm`; batches that end early or differ in shape.

    References: Yoshida et al. 2026, DisTaC, arXiv 2508.01148. Projection is ours.

    >>> import jax.numpy as jnp
    >>> apply_fn = lambda params, x_BD: x_BD @ params["w"]
    >>> base, model = {"w": jnp.zeros((2, 3))}, {"w": jnp.eye(2, 3)}
    >>> result = distill_task_vector(
    ...     apply_fn, base, model, [jnp.eye(2)], kappa=0.5, steps=2)
    >>> result.kappa, result.history["step"].tolist()
    (0.5, [0, 1])
    """
    check_choice("norm_mode", norm_mode, ("penalty", "project", "none"))
    tv = task_vector(base, finetuned, where=where)
    chosen, skip = choose_kappa(tv, kappa, target_norm)
    if skip or steps == 0:
        shortened = scale(tv, chosen)
        return DistillResult(apply_task_vector(base, shortened), shortened, {}, chosen)
    settings = Distillation(
        chosen, teacher_temperature, student_temperature, beta, norm_mode, decoupled
    )
    student = Student.of(apply_fn, base, tv, settings)
    params, history = descend_over(
        student.loss,
        student.start,
        _Keyed(batches, key),
        student.with_anchor(optimizer or default_optimizer()),
        steps,
        log_every=log_every,
        frozen=student.frozen,
        project=student.projection,
    )
    moved = student.vector(params, tv)
    return DistillResult(apply_task_vector(base, moved), moved, history, chosen)


def default_optimizer() -> optax.GradientTransformation:
    """Clipping to norm 1, then Adam whose rate rises to 1e-5 in 500 steps.

    >>> default_optimizer().init({}) is not None
    True
    """
    rate = optax.linear_schedule(0.0, 1e-5, 500)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def choose_kappa(
    tv: TaskVector, kappa: float = 1.0, target_norm: float | None = None
) -> tuple[float, bool]:
    """The scale of the anchor, and whether there is nothing to distill.

    >>> import jax.numpy as jnp
    >>> choose_kappa({"w": jnp.array([3.0, 4.0])}, target_norm=2.0)
    (0.4, False)
    """
    if target_norm is not None and kappa != 1.0:
        raise ConfigError(
            f"both kappa={kappa} and target_norm={target_norm} are given; keep one"
        )
    size = float(global_norm(tv))
    if size == 0:
        warnings.warn(
            "the task vector is zero: nothing to distill", JoptWarning, stacklevel=3
        )
        return 1.0, True
    chosen = kappa if target_norm is None else round(target_norm / size, 7)
    if chosen > 1:
        warnings.warn(
            f"kappa = {chosen:.3g} stretches a task vector: accuracy is lost quickly "
            "above 1; shorten the longer vectors instead",
            JoptWarning,
            stacklevel=3,
        )
    return chosen, False


class _Keyed:
    """Batches, each with a key of its own or None; begun anew where they can be."""

    def __init__(self, batches: Iterable[Any], key: jax.Array | None) -> None:
        self.batches = batches
        self.key = key
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Any, jax.Array | None]]:
        for batch in self.batches:
            self.count += 1
            key = self.key
            yield batch, None if key is None else jax.random.fold_in(key, self.count)
