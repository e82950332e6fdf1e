"""Trials as lanes: one compiled program trains all that differ in numbers alone.

What is static (algorithm, optimizer, model, batch size) is closed over; settings,
parameters, states and the order of examples have a leading axis of lanes under
`jax.vmap`, which gives each lane its own arithmetic: a lane that diverges is NaN by
itself. A step is that of training: oracle, `tx.update`, apply.
"""

# L lanes; S steps of a segment; E training environments; B rows of each; N examples.

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.models import Model
from jopt.studies.domains._levels import LEVELS
from jopt.training.algorithms import build_algorithm, environment_oracle
from jopt.transforms import reset_state
from jopt.tree import all_finite

Settings = Mapping[str, Any]


class Pool(NamedTuple):
    """All examples of the training environments; (E, N, ...), filled up with zeros.

    Targets of images are (E, N), of text (E, N, T).
    """

    inputs: jax.Array
    targets: jax.Array


class Lane(NamedTuple):
    """The state of one trial, all of it arrays."""

    params: Any
    model_state: Any
    opt_state: Any
    algorithm_state: Any
    key: jax.Array


class Segment(NamedTuple):
    """What the steps up to an evaluation say.

    Attributes:
        loss: of the last step.
        finite: whether every loss of the segment and all parameters after it are.
    """

    loss: jax.Array
    finite: jax.Array


class LaneProgram(NamedTuple):
    """A bucket of trials, as pure functions of one lane.

    Attributes:
        init: `init(settings, key, example) -> Lane`; `example` is a batch of any rows.
        advance: `advance(settings, lane, pool, index) -> (Lane, Segment)`, one step for
            each row of `index` (S, E, B): which examples of each environment.
    """

    init: Callable[[Settings, jax.Array, Any], Lane]
    advance: Callable[[Settings, Lane, Pool, jax.Array], tuple[Lane, Segment]]


def lane_program(
    model: Model, algorithm: str, optimizer: str, num_environments: int
) -> LaneProgram:
    """The program of one algorithm and one optimizer.

    Args:
        algorithm: a key of `jopt.training.algorithms.ALGORITHMS` that neither wraps the
            optimizer nor changes its learning rate.
        optimizer: a key of `LEVELS`.

    Settings are named `algorithm.NAME` and `optim.NAME` and may be traced.
    """

    def parts(settings: Settings) -> tuple[Any, Any, Any]:
        built = build_algorithm(algorithm, model, _group(settings, "algorithm"))
        tx = LEVELS[optimizer].make(_group(settings, "optim"), model)
        oracle = environment_oracle(built, num_environments)
        return built, oracle, optax.with_extra_args_support(tx)

    def init(settings: Settings, key: jax.Array, example: Any) -> Lane:
        _, oracle, tx = parts(settings)
        own, later = jax.random.split(key)
        params, model_state = model.init(own, example)
        return Lane(params, model_state, tx.init(params), oracle.init(params), later)

    def advance(
        settings: Settings, lane: Lane, pool: Pool, index_SEB: jax.Array
    ) -> tuple[Lane, Segment]:
        built, oracle, tx = parts(settings)

        def step(lane: Lane, index_EB: jax.Array) -> tuple[Lane, jax.Array]:
            key, later = jax.random.split(lane.key)
            opt_state = reset_state(
                tx,
                lane.opt_state,
                lane.params,
                built.resets_optimizer(lane.algorithm_state),
            )
            found, algorithm_state = oracle.apply(
                lane.algorithm_state,
                lane.params,
                lane.model_state,
                _batch(pool, index_EB),
                key,
            )
            updates, opt_state = tx.update(
                found.grads, opt_state, lane.params, grad_fn=found.grad_fn
            )
            params = optax.apply_updates(lane.params, updates)
            model_state = found.aux.model_state
            return Lane(params, model_state, opt_state, algorithm_state, later), (
                found.value
            )

        lane, values_S = jax.lax.scan(step, lane, index_SEB)
        finite = jnp.all(jnp.isfinite(values_S)) & all_finite(lane.params)
        return lane, Segment(values_S[-1], finite)

    return LaneProgram(init, advance)


@functools.lru_cache(maxsize=1)
def lane_programs(
    model: Model, algorithm: str, optimizer: str, num_environments: int
) -> LaneProgram:
    """`lane_program` of all lanes at once, compiled; the last one is kept.

    Settings, keys, lanes and the order of examples have a leading axis of lanes. A lane
    that is advanced is used up.
    """
    program = lane_program(model, algorithm, optimizer, num_environments)
    return LaneProgram(
        jax.jit(jax.vmap(program.init, (0, 0, None))),
        jax.jit(jax.vmap(program.advance, (0, 0, None, 0)), donate_argnums=1),
    )


def _batch(pool: Pool, index_EB: jax.Array) -> dict[str, jax.Array]:
    env_E1 = jnp.arange(len(index_EB))[:, None]
    targets = pool.targets[env_E1, index_EB]
    return {
        "inputs": pool.inputs[env_E1, index_EB],
        "targets": targets,
        "mask": jnp.ones(targets.shape, jnp.float32),
        "domain": jnp.broadcast_to(env_E1, index_EB.shape),
    }


def _group(settings: Settings, name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value
        for key, value in settings.items()
        if key.startswith(prefix)
    }
