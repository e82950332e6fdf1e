"""Fisher merging: each entry's mean weighted by how sharply each task depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    leafwise,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where, is_mergeable, masked, wide_dtype
from jopt.tree import PyTree, global_norm, map_named, named_leaves

# T tasks; B examples; C classes.


def fisher_information(
    logits_fn: Callable[[PyTree, Any], jax.Array],
    params: PyTree,
    inputs: Any,
    *,
    labels: Literal["expected", "sampled"] = "expected",
    key: jax.Array | None = None,
) -> PyTree:
    """The diagonal of E_x E_{y ~ p(y|x)} [(d log p(y|x) / d theta)^2].

    Squares are taken of the gradient of each example. Squaring the gradient of a batch,
    as much code does, gives the square of a mean, which is no Fisher information.
    Labels come from the model, never from the data.

    Args:
        logits_fn: (params, inputs with a leading axis of examples) -> logits (B, C).
        inputs: an array, or a tree of arrays, (B, ...); 256 examples are usual.
        labels: `expected` takes the exact expectation over classes, C backward passes
            for each example; `sampled` draws one class with `key`.

    Returns: a tree like `params`, in float32 at least, with masked nodes for leaves
    that are not floating. One example at a time: memory of C gradients, or one.

    References: Matena and Raffel 2022, Merging models with Fisher-weighted averaging,
    arXiv 2111.09832.

    >>> logits = lambda params, x_B: jnp.stack([x_B * params["w"], 0 * x_B], axis=1)
    >>> fisher_information(logits, {"w": jnp.zeros(())}, jnp.array([2.0, -2.0]))
    {'w': Array(1., dtype=float32)}
    """
    check_choice("labels", labels, ("expected", "sampled"))
    if key is None and labels == "sampled":
        raise ConfigError(
            "labels='sampled' draws classes: pass key=jax.random.key(seed)"
        )
    leaves = named_leaves(params)
    moving = masked(params, {p for p, leaf in leaves.items() if is_mergeable(p, leaf)})

    def log_probs(moving: PyTree, example: Any) -> jax.Array:
        changed = named_leaves(moving)
        whole = map_named(lambda path, leaf: changed.get(path, leaf), params)
        one = jax.tree.map(lambda x: x[None], example)
        return jax.nn.log_softmax(logits_fn(whole, one)[0].astype(wide_dtype()))

    def expected(example: Any) -> PyTree:
        logp_C = log_probs(moving, example)
        by_class = jax.jacrev(log_probs)(moving, example)
        return jax.tree.map(
            lambda g_C: jnp.tensordot(jnp.exp(logp_C), jnp.square(jnp.abs(g_C)), 1),
            by_class,
        )

    def sampled(example_and_key: Any) -> PyTree:
        example, key = example_and_key
        drawn = jax.random.categorical(key, log_probs(moving, example))
        grads = jax.grad(lambda moving: log_probs(moving, example)[drawn])(moving)
        return jax.tree.map(
            lambda g: jnp.square(jnp.abs(g.astype(wide_dtype(g)))), grads
        )

    count = len(jax.tree.leaves(inputs)[0])
    total = jax.tree.map(
        lambda leaf: jnp.zeros(
            leaf.shape, jnp.abs(jnp.zeros((), wide_dtype(leaf))).dtype
        ),
        moving,
    )
    if key is None or labels == "expected":
        return _mean_over(expected, inputs, total, count)
    return _mean_over(sampled, (inputs, jax.random.split(key, count)), total, count)


def _mean_over(
    fn: Callable[[Any], PyTree], examples: Any, total: PyTree, count: int
) -> PyTree:
    def add(total: PyTree, example: Any) -> tuple[PyTree, None]:
        return jax.tree.map(
            lambda x, y: x + y.astype(x.dtype), total, fn(example)
        ), None

    total, _ = jax.lax.scan(add, total, examples)
    return jax.tree.map(lambda x: x / count, total)


def fisher(
    *, eps: Any = 1e-6, normalize: bool = False, where: Where | None = None
) -> MergeTransform:
    """sum_t w_t F_t tau_t / sum_t w_t F_t of each entry, with eps added to each F_t.

    The same combination of theta_t, since the weights of an entry add up to 1. The
    information is `aux["fishers"]`: a tree for each task, see `fisher_information`.

    Args:
        eps: of the size of F; entries on which no task depends get the plain mean.
        normalize: divides w_t by ||F_t||, then all by their sum, so that no task counts
            more only because its loss is steeper.

    Fails: `ConfigError` if there is not one tree for each task, or a leaf is missing.

    References: Matena and Raffel 2022, arXiv 2111.09832.

    >>> fishers = [{"w": jnp.array([1.0])}, {"w": jnp.array([3.0])}]
    >>> context = MergeContext({}, jnp.ones(2), aux={"fishers": fishers})
    >>> fisher().fn({"w": jnp.array([[0.0], [4.0]])}, context)["w"].round(4).tolist()
    [3.0]
    """

    def fn(path: str, x_T: jax.Array, context: MergeContext) -> jax.Array:
        fishers = context.aux["fishers"]
        weights_T = task_weights({path: x_T}, context)
        if normalize:
            weights_T = weights_T / jnp.stack([global_norm(tree) for tree in fishers])
            weights_T = weights_T / jnp.sum(weights_T)
        info_T = jnp.stack(per_task("fishers", fishers, path, x_T)) + eps
        mass = weighted(info_T, weights_T)
        return (weighted(info_T * x_T, weights_T) / mass).astype(x_T.dtype)

    return leafwise("reduce", fn, where=where, needs=frozenset({"fishers"}))


def per_task(name: str, trees: Any, path: str, x_T: jax.Array) -> list[jax.Array]:
    """What `aux[name]` has for one leaf, task after task.

    >>> per_task("fishers", [{"w": 1}, {"w": 2}], "w", jnp.ones(2))
    [1, 2]
    """
    if len(trees) != len(x_T):
        raise ConfigError(
            f"aux[{name!r}] has {len(trees)} entries for {len(x_T)} tasks; give one "
            "for each, in the order of the models"
        )
    found = [named_leaves(tree).get(path) for tree in trees]
    present = [leaf for leaf in found if leaf is not None]
    missing = [task for task, leaf in enumerate(found) if leaf is None]
    if missing:
        raise ConfigError(f"aux[{name!r}] of the tasks {missing} has no leaf {path!r}")
    return present
