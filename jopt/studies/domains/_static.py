"""What all buckets of a task have in common: examples, model, evaluation; made once."""

# E environments; N examples of the largest.

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data._stream import filled
from jopt.data.environments import DomainTask, load_task
from jopt.models import Model, mlp, transformer_lm
from jopt.studies.domains._evaluation import Stack, evaluator, stacked
from jopt.studies.domains._lanes import Pool


class Static(NamedTuple):
    """Of a task, a width and a trial seed.

    Attributes:
        pool: the examples of the training environments.
        stack: those that models are evaluated on.
        evaluate: figures of all lanes, from parameters, states of the model and stack.
    """

    task: DomainTask
    model: Model
    pool: Pool
    stack: Stack
    evaluate: Callable[[Any, Any, Stack], dict[str, jax.Array]]


@functools.lru_cache(maxsize=1)
def static_of(name: str, width: int, trial_seed: int, evaluated: int) -> Static:
    """All of it, the last one kept; `evaluated` as in `Bucket`."""
    task = load_task(name)
    model = model_of(task, width)
    evaluate = evaluator(model)

    @jax.jit
    def of_lanes(params: Any, model_state: Any, stack: Stack) -> dict[str, jax.Array]:
        # One lane after the other: activations of all examples of all lanes are many.
        return jax.lax.map(
            lambda lane: evaluate(lane[0], lane[1], stack), (params, model_state)
        )

    stack = stacked(task, trial_seed, evaluated or None)
    return Static(task, model, pool_of(task, task.default_train_envs), stack, of_lanes)


def model_of(task: DomainTask, width: int) -> Model:
    """A perceptron with two hidden layers for images; for bytes a decoder of two.

    A decoder of width 96 is the language model of the size `micro`.
    """
    if task.metric == "bits_per_byte":
        shape = {"num_layers": 2, "embed_dim": width, "num_heads": 2}
        return transformer_lm({"vocab_size": task.num_classes, **shape})
    return mlp(
        {
            "input_dim": math.prod(task.input_shape),
            "hidden_dim": width,
            "num_classes": task.num_classes,
        }
    )


def pool_of(task: DomainTask, envs: Sequence[int]) -> Pool:
    """The examples of some environments, by their numbers there."""
    sources = [task.envs[e].source for e in envs]
    longest = max(source.size for source in sources)
    batches = [filled(x.rows(np.arange(x.size)), longest) for x in sources]
    return Pool(
        *(
            jnp.asarray(np.stack([batch[name] for batch in batches]))
            for name in Pool._fields
        )
    )
