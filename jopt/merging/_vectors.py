"""Task vectors: from models, and back to a model.

A task vector is a tree like the parameters. Where a leaf takes no part in merging there
is an `optax.MaskedNode`, which has no leaves, so every map over trees passes it by.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.merging._match import check_finite, check_no_statistics, common_leaves
from jopt.tree import PyTree, map_named, named_leaves

# T tasks.

TaskVector: TypeAlias = PyTree
StackedTV: TypeAlias = PyTree
Where: TypeAlias = Callable[[str, Any], bool]

HOLE = optax.MaskedNode()


def is_mergeable(path: str, leaf: Any) -> bool:
    """Whether a leaf holds floating or complex numbers: no counters, ids, PRNG keys.

    >>> is_mergeable("w", jnp.zeros(2)), is_mergeable("step", jnp.zeros(2, jnp.int32))
    (True, False)
    """
    del path
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def wide_dtype(*dtypes: Any) -> Any:
    """The dtype in which task vectors are computed: float32 at least.

    >>> wide_dtype(jnp.bfloat16)
    dtype('float32')
    """
    return jnp.result_type(jnp.float32, *dtypes)


@overload
def task_vector(
    base: PyTree,
    finetuned: PyTree,
    *,
    where: Where = ...,
    dtype: Any = ...,
    strict: Literal[True] = ...,
) -> TaskVector: ...
@overload
def task_vector(
    base: PyTree,
    finetuned: PyTree,
    *,
    where: Where = ...,
    dtype: Any = ...,
    strict: Literal[False],
) -> tuple[TaskVector, list[str]]: ...
def task_vector(
    base: PyTree,
    finetuned: PyTree,
    *,
    where: Where = is_mergeable,
    dtype: Any = None,
    strict: bool = True,
) -> TaskVector | tuple[TaskVector, list[str]]:
    """tau = theta_t - theta_0, in float32 at least.

    Leaves are matched by path, so the containers of both trees may differ. A leaf that
    is not floating or complex, or for which `where(path, leaf of base)` is False, gets
    a masked node, and `apply_task_vector` keeps the base there. The difference of two
    bfloat16 leaves is taken in float32: in bfloat16 most of it would be lost.

    Args:
        base, finetuned: parameters; no `batch_stats` (see `merge_variables`).
        where: which leaves take part; task heads and the second of two tied weights
            are left out here.
        dtype: of the result; by default float32, or float64 where a leaf has it. NumPy
            arrays are read as JAX reads them: without `jax_enable_x64`, in float32.
        strict: False keeps the leaves that both have in one shape, and returns the
            paths of the others as well, in the order of `base`.

    Returns: a tree like `base`; with `strict=False`, (tree, skipped paths).

    Fails: `ValueError` that names the paths which only one tree has, both shapes where
    they differ, or the leaves with NaN or infinity (not seen inside `jit`).

    References: Ilharco et al. 2023, Editing models with task arithmetic, arXiv
    2212.04089.

    >>> base = {"w": jnp.array([1.0, 2.0], jnp.bfloat16), "step": jnp.array(7)}
    >>> tv = task_vector(base, {"w": jnp.array([1.5, 2.0]), "step": jnp.array(9)})
    >>> tv["w"], tv["step"]
    (Array([0.5, 0. ], dtype=float32), MaskedNode())
    """
    check_no_statistics(base)
    theirs, skipped = common_leaves(base, finetuned, strict=strict)

    def difference(path: str, leaf: Any) -> Any:
        if path not in theirs or not (is_mergeable(path, leaf) and where(path, leaf)):
            return HOLE
        other = theirs[path]
        wide = wide_dtype(leaf, other)
        delta = jnp.asarray(other, wide) - jnp.asarray(leaf, wide)
        return delta if dtype is None else delta.astype(dtype)

    tv = map_named(difference, base)
    check_finite("task vector", tv)
    return tv if strict else (tv, skipped)


def apply_task_vector(base: PyTree, tv: TaskVector, scale: Any = 1.0) -> PyTree:
    """theta_0 + scale * tau, added in float32 at least, in the dtypes of `base`.

    A leaf of `base` that the task vector does not have is returned as it is.

    Args:
        scale: the merging coefficient lambda; may be traced.

    Fails: `ValueError` for a leaf of `tv` that `base` does not have in that shape.

    >>> base = {"w": jnp.array([1.0, 2.0], jnp.bfloat16), "step": jnp.array(7)}
    >>> merged = apply_task_vector(base, {"w": jnp.array([0.5, 0.0])}, 2.0)
    >>> merged["w"].astype(float).tolist(), merged["w"].dtype.name, int(merged["step"])
    ([2.0, 2.0], 'bfloat16', 7)
    """
    deltas = named_leaves(tv)
    ours = named_leaves(base)
    wrong = [
        f"{path} {jnp.shape(delta)}"
        + (f" against {jnp.shape(ours[path])}" if path in ours else ": not in the base")
        for path, delta in deltas.items()
        if path not in ours or jnp.shape(ours[path]) != jnp.shape(delta)
    ]
    if wrong:
        raise ConfigError(
            "these leaves of the task vector do not fit the base: " + ", ".join(wrong)
        )

    def add_leaf(path: str, leaf: Any) -> Any:
        if path not in deltas:
            return leaf
        wide = wide_dtype(leaf, deltas[path])
        moved = jnp.asarray(leaf, wide) + scale * deltas[path].astype(wide)
        return moved.astype(jnp.asarray(leaf).dtype)

    return map_named(add_leaf, base)


def stack(tvs: Sequence[TaskVector]) -> StackedTV:
    """Task vectors as one tree, with a leading axis of tasks on every leaf.

    Fails: `ValueError` for an empty sequence, or trees or shapes that differ, by path.

    >>> stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])["w"].shape
    (2, 3)
    """
    if not tvs:
        raise ConfigError("there is no task vector to stack; give at least one")
    by_path = [common_leaves(tvs[0], tv, strict=True)[0] for tv in tvs]
    return map_named(lambda path, _: jnp.stack([tv[path] for tv in by_path]), tvs[0])


def unstack(stacked: StackedTV) -> list[TaskVector]:
    """The task vectors of a stack.

    >>> [float(tv["b"]) for tv in unstack({"b": jnp.array([1.0, 2.0])})]
    [1.0, 2.0]
    """
    return [
        jax.tree.map(operator.itemgetter(t), stacked)
        for t in range(task_count(stacked))
    ]


def task_count(stacked: StackedTV) -> int:
    """How many tasks a stack has; `ValueError` where leaves disagree or there are none.

    >>> task_count({"b": jnp.zeros((3, 4))})
    3
    """
    counts = {path: jnp.shape(x)[:1] for path, x in named_leaves(stacked).items()}
    if len(set(counts.values())) != 1 or () in counts.values():
        raise ConfigError(
            "expected leaves with one leading axis of tasks, found "
            f"{ {path: found[0] if found else None for path, found in counts.items()} }"
        )
    return int(next(iter(counts.values()))[0])


def masked(tree: PyTree, keep: Iterable[str] | Mapping[str, Any]) -> PyTree:
    """The tree with masked nodes for leaves whose path is not in `keep`.

    >>> masked({"a": 1, "b": 2}, {"a"})
    {'a': 1, 'b': MaskedNode()}
    """
    kept = set(keep)
    return map_named(lambda path, leaf: leaf if path in kept else HOLE, tree)
