"""The student of a distillation: where it starts, what it loses, where it is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jopt.merging._distillation import distillation_loss, entropy
from jopt.merging._vectors import TaskVector, wide_dtype
from jopt.transforms._anchor import decay_to_anchor
from jopt.tree import PyTree, global_norm, map_named, named_leaves

ApplyFn: TypeAlias = Callable[..., jax.Array]
NormMode: TypeAlias = Literal["penalty", "project", "none"]


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


class Frozen(NamedTuple):
    """What does not change: trees like the base, and leaves of the student by path."""

    base: PyTree
    teacher: PyTree
    origin: dict[str, jax.Array]
    length: jax.Array


class Student(NamedTuple):
    """The student is a dict of the leaves that move, by path, in float32 at least."""

    apply_fn: ApplyFn
    settings: Distillation
    start: dict[str, jax.Array]
    frozen: Frozen

    @classmethod
    def of(
        cls, apply_fn: ApplyFn, base: PyTree, tv: TaskVector, settings: Distillation
    ) -> Student:
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
        frozen = Frozen(base, teacher, origin, length)
        return cls(apply_fn, settings, at(settings.kappa), frozen)

    def loss(self, moving: Any, batch: Any, frozen: Frozen) -> tuple[jax.Array, dict]:
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


def _on_sphere(moving: dict[str, jax.Array], frozen: Frozen) -> dict[str, jax.Array]:
    """The parameters whose distance from the base is exactly what it should be."""
    delta = _difference(moving, frozen.origin)
    size = global_norm(delta)
    factor = frozen.length / jnp.where(size > 0, size, 1)
    return {path: x + factor * delta[path] for path, x in frozen.origin.items()}
