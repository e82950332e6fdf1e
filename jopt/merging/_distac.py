"""DisTaC: giving a task vector another norm or more confidence, by distillation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError, JoptWarning, check_choice
from jopt.merging._descend import descend, descend_over
from jopt.merging._distillation import distillation_loss, entropy
from jopt.merging._vectors import (
    TaskVector,
    Where,
    apply_task_vector,
    is_mergeable,
    scale,
    task_vector,
    wide_dtype,
)
from jopt.transforms._anchor import decay_to_anchor
from jopt.tree import PyTree, global_norm, map_named, named_leaves

# K steps.

ApplyFn: TypeAlias = Callable[..., jax.Array]
NormMode: TypeAlias = Literal["penalty", "project", "none"]


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


class Distillation(NamedTuple):
    """The numbers of a distillation.

    Attributes:
        kappa: the student starts at, and is held to, theta_0 + kappa tau.
        teacher_temperature, student_temperature: see `distillation_loss`.
        beta: weight of ||theta - theta_a||^2, with `norm_mode="penalty"`.
        norm_mode: `penalty`; `project`, which gives theta - theta_0 the norm
            kappa ||tau|| after each step; `none`.
        decoupled: the penalty's pull is not a part of the gradient that the optimizer
            sees, but is added, times this learning rate, to its step.
    """

    kappa: Any = 1.0
    teacher_temperature: Any = 1.0
    student_temperature: Any = 1.0
    beta: Any = 0.1
    norm_mode: NormMode = "penalty"
    decoupled: optax.ScalarOrSchedule | None = None


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

    >>> apply_fn = lambda params, x_BD: x_BD @ params["w"]
    >>> base, tv = {"w": jnp.zeros((2, 3))}, {"w": jnp.ones((2, 3))}
    >>> found, history = distill(
    ...     apply_fn, base, tv, jnp.ones((4, 5, 2)), Distillation(), optax.sgd(0.1))
    >>> found["w"].tolist() == tv["w"].tolist(), history["loss"].tolist()
    (True, [0.0, 0.0, 0.0, 0.0])
    """
    problem = _Problem.of(apply_fn, base, tv, settings)
    tx = problem.with_anchor(optimizer)
    (params, _), history = descend(
        problem.loss,
        (problem.start, tx.init(problem.start)),
        (inputs, keys),
        tx,
        frozen=problem.frozen,
        project=problem.projection,
    )
    return problem.vector(params, tv), history


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
    problem = _Problem.of(apply_fn, base, tv, settings)
    params, history = descend_over(
        problem.loss,
        problem.start,
        _Keyed(batches, key),
        problem.with_anchor(optimizer or default_optimizer()),
        steps,
        log_every=log_every,
        frozen=problem.frozen,
        project=problem.projection,
    )
    moved = problem.vector(params, tv)
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


class _Frozen(NamedTuple):
    """What does not change: trees like the base, and leaves of the student by path."""

    base: PyTree
    teacher: PyTree
    origin: dict[str, jax.Array]
    length: jax.Array


class _Problem(NamedTuple):
    """The student is a dict of the leaves that move, by path, in float32 at least."""

    apply_fn: ApplyFn
    settings: Distillation
    start: dict[str, jax.Array]
    frozen: _Frozen

    @classmethod
    def of(
        cls, apply_fn: ApplyFn, base: PyTree, tv: TaskVector, settings: Distillation
    ) -> _Problem:
        deltas = named_leaves(tv)
        leaves = named_leaves(base)
        origin = {
            path: jnp.asarray(leaves[path], wide_dtype(leaves[path], delta))
            for path, delta in deltas.items()
        }

        def at(factor: Any) -> dict[str, jax.Array]:
            return {path: origin[path] + factor * deltas[path] for path in origin}

        # The same arithmetic for both, so that with kappa = 1 they are one model.
        teacher = _network(base, at(1.0))
        length = settings.kappa * global_norm(deltas)
        frozen = _Frozen(base, teacher, origin, length)
        return cls(apply_fn, settings, at(settings.kappa), frozen)

    def loss(self, moving: Any, batch: Any, frozen: _Frozen) -> tuple[jax.Array, dict]:
        inputs, key = batch
        drawn = {} if key is None else {"key": key}
        z_t = self.apply_fn(frozen.teacher, inputs)
        z_s = self.apply_fn(_network(frozen.base, moving), inputs, **drawn)
        loss = distillation_loss(
            z_s,
            z_t,
            teacher_temperature=self.settings.teacher_temperature,
            student_temperature=self.settings.student_temperature,
        )
        return loss, {
            "norm": global_norm(_difference(moving, frozen.origin)),
            "entropy": jnp.mean(entropy(z_s)),
            "teacher_agreement": jnp.mean(jnp.argmax(z_s, -1) == jnp.argmax(z_t, -1)),
        }

    @property
    def projection(self) -> Any:
        return _on_sphere if self.settings.norm_mode == "project" else None

    def with_anchor(
        self, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """The optimizer with the pull to where the student starts."""
        beta, rate = self.settings.beta, self.settings.decoupled
        if self.settings.norm_mode != "penalty":
            return optimizer
        if rate is None:
            return optax.chain(decay_to_anchor(beta), optimizer)
        pull = decay_to_anchor(beta, decoupled=True, learning_rate=rate)
        return optax.chain(optimizer, pull)

    def vector(self, moving: dict[str, jax.Array], like: TaskVector) -> TaskVector:
        moved = _difference(moving, self.frozen.origin)
        return map_named(lambda path, x: moved[path].astype(x.dtype), like)


def _network(base: PyTree, moving: dict[str, jax.Array]) -> PyTree:
    def leaf_of(path: str, leaf: Any) -> Any:
        return moving[path].astype(jnp.result_type(leaf)) if path in moving else leaf

    return map_named(leaf_of, base)


def _difference(moving: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    return {path: moving[path] - origin[path] for path in origin}


def _on_sphere(moving: dict[str, jax.Array], frozen: _Frozen) -> dict[str, jax.Array]:
    """The parameters whose distance from the base is exactly what it should be."""
    delta = _difference(moving, frozen.origin)
    size = global_norm(delta)
    factor = frozen.length / jnp.where(size > 0, size, 1)
    return {path: x + factor * delta[path] for path, x in frozen.origin.items()}


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
