"""A config made into what the loop needs: model, data, oracle, optimizer, mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from jopt import models, objectives
from jopt.linalg import default_compute_dtype
from jopt.optimizers import Optimizer, build, read_table
from jopt.parallel import (
    batch_sharding,
    put_batch,
    replicated,
    shard_parameters,
    together,
)
from jopt.training._adaptive_batch import AdaptiveBatch, check_smallest
from jopt.training._batch_sizes import consumed
from jopt.training._config_checks import validate
from jopt.training._environment_plan import planned_environments
from jopt.training._grams import grams_of
from jopt.training._local_updates import (
    anywhere,
    inner_config,
    is_on,
    replicas_of,
    resolve_local_updates,
)
from jopt.training._mesh_keys import mesh_of, rules_of
from jopt.training._oracles import Oracle, value_and_grad
from jopt.training._platform import compute_dtype
from jopt.training._replica_programs import ReplicaPrograms
from jopt.training._replicas import Replicas
from jopt.training._sharp_oracle import sharp_oracle
from jopt.training._sharpness import climbs, sharpness, spectral_views
from jopt.training._state import (
    TrainState,
    placed,
    state_factory,
    state_shardings,
)
from jopt.training._step import make_step
from jopt.training._tasks import Task, task_of
from jopt.transforms import monitor

PyTree = Any


def resolve(config: ConfigDict) -> ConfigDict:
    """A validated copy of a config in which nothing is left to this machine.

    `auto` becomes a type, for the model (`train.compute_dtype`) and in the rules that
    have a `compute_dtype`; one of the mesh axes may have been -1; the file of
    `train.schedule` becomes the table in it. Asks JAX for its devices.
    """
    validate(config)
    config = config.copy_and_resolve_references()
    backend = jax.default_backend()
    config.train.compute_dtype = compute_dtype(config.train.compute_dtype, backend)
    config.model.compute_dtype = config.train.compute_dtype
    for rule in config.optim.rules.values():
        if rule.get("compute_dtype") == "auto":
            rule.compute_dtype = default_compute_dtype("float32").name
    if config.oracle.compute_dtype == "auto":
        config.oracle.compute_dtype = default_compute_dtype("float32").name
    schedule = config.train.schedule
    if schedule.name == "table" and schedule.path and not schedule.factors:
        schedule.fractions, schedule.factors = read_table(schedule.path)
    mesh = mesh_of(config)
    for axis, size in mesh.shape.items():
        config.mesh[axis] = size
    resolve_local_updates(config, mesh)
    validate(config)  # with the sizes that are known now
    return config.lock()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a run that needs no data: shapes, optimizer, programs.

    Attributes:
        config: resolved.
        task: what the objective means.
        mesh: the devices.
        model: pure functions and matrix views.
        oracles: from a number of microbatches to the way from objective to gradients.
        optimizer: the transformation, its needs and its table.
        params: one model's, as `ShapeDtypeStruct` with shardings.
        shapes: the same of the whole state.
        adaptive: what an adaptive batch adds to the step; None for a fixed one.
        replicas: what local updates make of the step; None without them.
    """

    config: ConfigDict
    task: Task
    mesh: Mesh
    model: models.Model
    oracles: Callable[[int], Oracle]
    optimizer: Optimizer
    params: PyTree
    shapes: TrainState
    adaptive: AdaptiveBatch | None = None
    replicas: Replicas | None = None

    def init(self) -> TrainState:
        """The first state, placed on the mesh."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        return jax.jit(self._make_state(), out_shardings=shardings)()

    def _make_state(self) -> Callable[[], TrainState]:
        oracle = self.oracles(self.config.train.accumulation)
        make = _make_state(self.config, self.task, self.model, self.optimizer, oracle)
        return make if self.replicas is None else self.replicas.start(make)

    @property
    def step(self) -> Callable[..., Any]:
        """The jitted training step; it takes over the buffers of the state."""
        return self.step_of(self.config.train.accumulation)

    def step_of(self, count: int, number: int = 0) -> Callable[..., Any]:
        """`step` with so many microbatches, a program of its own for each number.

        Args:
            count: microbatches.
            number: steps before it, which tell whether replicas meet after it.
        """
        if self.programs is not None:
            return self.programs.step(number)
        if count not in self._steps:
            adaptive = self.adaptive
            factor = None if adaptive is None else adaptive.learning_rate_factor(count)
            shardings = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
            step = jax.jit(
                make_step(self.oracles(count), self.optimizer, factor),
                in_shardings=(shardings, batch_sharding(self.mesh)),
                out_shardings=(shardings, self._readable),
                donate_argnums=0,
            )
            self._steps[count] = together(step)
        return self._steps[count]

    @functools.cached_property
    def programs(self) -> ReplicaPrograms | None:
        """What is compiled for local updates; None without them."""
        if self.replicas is None:
            return None
        oracle = self.oracles(self.config.train.accumulation)
        make = oracle, self.optimizer
        return ReplicaPrograms(self.replicas, *make, self.shapes, self.params)

    def model_of(self, state: TrainState) -> TrainState:
        """The state with the parameters and variables of the one model it stands for.

        With local updates that is the model of `local_updates.eval_params`.
        """
        return state if self.programs is None else self.programs.model_of(state)

    def read(self, metrics: Any) -> dict[str, Any]:
        """The metrics of a step, on the host."""
        if self.programs is None:
            return jax.device_get(metrics)
        return self.programs.read(metrics)

    @functools.cached_property
    def _steps(self) -> dict[int, Callable[..., Any]]:
        return {}

    @functools.cached_property
    def sums(self) -> Callable[..., Any]:
        """The jitted evaluation sums of one batch."""
        return self._sums_of(self.model)

    def sums_among(self, classes: np.ndarray | None) -> Callable[..., Any]:
        """`sums` of a model that chooses among some classes; None: all of them."""
        if classes is None:
            return self.sums
        return self._sums_of(objectives.among_classes(self.model, classes))

    def _sums_of(self, model: models.Model) -> Callable[..., Any]:
        return together(jax.jit(self.task.sums(model), out_shardings=self._readable))

    @property
    def _readable(self) -> NamedSharding | None:
        """Where results lie that every process reads."""
        return None if jax.process_count() == 1 else replicated(self.mesh)

    def items(self, rows: int) -> int:
        """Tokens, or examples of a classifier, in so many rows."""
        return rows * self.task.items_per_row(self.config.data.seq_len)

    def seen(self, state: TrainState) -> int:
        """Tokens, or examples of a classifier, in the steps that led to a state."""
        rows = consumed(self.config, int(state.step), state.oracle_state)
        return self.items(rows)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host's rows as global arrays."""
        return put_batch(batch, batch_sharding(self.mesh))


def make_plan(config: ConfigDict) -> Plan:
    """Builds a plan from a resolved config; no array is made.

    Fails: `ConfigError` for a model, a rule or a mesh that cannot be.
    """
    mesh, rules = mesh_of(config), rules_of(config)
    task = task_of(config)
    model = models.build(config.model)
    batch = task.example_batch(config)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), batch)
    params = placed(params, shard_parameters(params, mesh, rules))
    optimizer = build(
        inner_config(config),
        anywhere(params) if is_on(config) else params,
        matrix_specs=model.matrix_specs,
        attention=model.attention,
    )
    environments = planned_environments(config, task, model)
    if environments is not None:
        optimizer = environments.around(optimizer)
    optimizer = _monitored(optimizer, config, model)
    replicas = replicas_of(config, optimizer, mesh, params)
    watched = model.attention if "max_attention_logits" in optimizer.needs else ()
    adaptive = None
    if config.train.adaptive_batch.enabled:
        check_smallest(config, mesh)
        adaptive = AdaptiveBatch(config, optimizer.table)
    grams = grams_of(optimizer, config, model, batch)
    taps = (*watched, *(grams.taps if grams else ()))

    halved = config.oracle.half_difference or adaptive is not None
    halved = halved or "half_difference" in optimizer.needs
    member = sharpness(
        config,
        spectral_views(optimizer.table, model.matrix_specs),
        jax.tree.map(lambda leaf: leaf.sharding, params),
    )

    def oracles(count: int) -> Oracle:
        if environments is not None:
            return environments.oracle
        if member is not None:
            return sharp_oracle(
                member,
                config.oracle,
                task,
                model,
                taps=taps,
                accumulation=count,
                climbs=climbs(config),
                half_difference=halved,
                grams=grams,
            )
        objective = task.objective(model, taps=taps)
        oracle = value_and_grad(
            objective, accumulation=count, half_difference=halved, grams=grams
        )
        return oracle if adaptive is None else adaptive.oracle(oracle, count)

    first = oracles(config.train.accumulation)
    make = _make_state(config, task, model, optimizer, first)
    if replicas is None:
        shapes = jax.eval_shape(make)
        where = state_shardings(shapes, mesh, rules)
    else:
        shapes = jax.eval_shape(replicas.start(make))
        where = replicas.shardings(shapes, params, mesh, rules)
    shapes = placed(shapes, where)
    built = (task, mesh, model, oracles, optimizer, params, shapes)
    return Plan(config, *built, adaptive=adaptive, replicas=replicas)


def _monitored(
    optimizer: Optimizer, config: ConfigDict, model: models.Model
) -> Optimizer:
    """`optimizer` inside `monitor`, which sees the gradient before all, the step after.

    With `monitor.every_steps = 0` the optimizer and its state are what they were.
    """
    every_steps = config.monitor.every_steps
    if every_steps == 0:
        return optimizer
    tx = monitor(optimizer.tx, every_steps, matrix_specs=model.matrix_specs)
    return optimizer._replace(tx=tx)


def _make_state(
    config: ConfigDict,
    task: Task,
    model: models.Model,
    optimizer: Optimizer,
    oracle: Oracle,
) -> Callable[[], TrainState]:
    batch = task.example_batch(config)
    return state_factory(model.init, optimizer.tx.init, oracle.init, batch, config.seed)
