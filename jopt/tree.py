"""Names, norms and digests of pytrees.

A leaf has one name everywhere: the keys on the way to it joined by `/`, for example
`blocks/3/attn/q/kernel`. Rules, metrics, errors, reports and checkpoints all use it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from jopt.errors import ConfigError

PyTree = Any


def path_string(key_path: tuple[Any, ...]) -> str:
    """Joins the keys of a JAX key path by `/`.

    >>> jax.tree_util.tree_flatten_with_path({"a": [1, 2]})[0][1][0]
    (DictKey(key='a'), SequenceKey(idx=1))
    >>> path_string((DictKey("a"), SequenceKey(1)))
    'a/1'
    """
    return "/".join(_key_name(key) for key in key_path)


def _key_name(key: Any) -> str:
    if isinstance(key, DictKey | FlattenedIndexKey):
        return str(key.key)
    if isinstance(key, GetAttrKey):
        return key.name
    if isinstance(key, SequenceKey):
        return str(key.idx)
    return str(key)


def path_words(path: str) -> tuple[str, ...]:
    """The lower-case words of a path, split at camel case and at all but letters.

    >>> path_words("blocks/3/LMHead_0/out_proj.kernel")
    ('blocks', 'lm', 'head', 'out', 'proj', 'kernel')
    """
    return tuple(word.lower() for word in _WORD.findall(path))


# An acronym before a capitalised word, a word, or an acronym: "LMHead" is "LM", "Head".
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` by path, in flattening order.

    >>> named_leaves({"a": {"b": 1}, "c": 2})
    {'a/b': 1, 'c': 2}

    Fails: `ConfigError` if two leaves have one name, as in {"a/b": 1, "a": {"b": 2}}.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {path_string(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        names = [path_string(path) for path, _ in leaves]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(
            f"several leaves are named {twice}; rename all but one of each"
        )
    return named


def map_named(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps `fn(path, leaf, *rest_leaves)` over a tree, where `path` is the leaf's name.

    >>> map_named(lambda path, x: f"{path}={x}", {"a": 1})
    {'a': 'a=1'}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: fn(path_string(path), leaf, *others), tree, *rest
    )


def norm(x: jax.Array) -> jax.Array:
    """Frobenius norm in float32 or wider, exact in scale from 1e-37 to 1e37.

    The entries are divided by the largest one before they are squared, so neither 1e-30
    nor 1e30 under- or overflows. An empty or zero array has norm 0, with gradient 0;
    NaN stays NaN.

    >>> bool(jnp.isclose(norm(jnp.array([3e30, 4e30])), 5e30))
    True
    """
    return global_norm(x)


def global_norm(tree: PyTree) -> jax.Array:
    """Norm of all leaves together, in float32 or wider, with the scale range of `norm`.

    One scale serves all leaves: what is too small beside the largest entry to be seen
    in the sum of squares would not change the norm.

    >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    """
    units, scale = unit_scaled(tree)
    total = _sum([jnp.sum(jnp.square(jnp.abs(unit))) for unit in units])
    some = total != 0
    return scale * jnp.where(some, jnp.sqrt(jnp.where(some, total, 1.0)), 0.0)


def inner_product(tree: PyTree, other: PyTree) -> jax.Array:
    """Re <tree, other> over all leaves, in float32 or wider; the first is conjugated.

    Each tree is divided by its largest entry on the way, as in `norm`.

    >>> float(inner_product({"a": jnp.array([3e30])}, {"a": jnp.array([2e-30])})) > 5.9
    True
    """
    ours, size = unit_scaled(tree)
    theirs, other_size = unit_scaled(other)
    products = [
        jnp.sum(jnp.real(jnp.conj(x) * y)) for x, y in zip(ours, theirs, strict=True)
    ]
    # A cosine times one size, then the other: neither product of sizes alone.
    return _sum(products) * size * other_size


def unit_scaled(tree: PyTree) -> tuple[list[jax.Array], jax.Array]:
    """The leaves over the largest entry of all, in float32 or wider, and that entry.

    It is 1 where all are zero or one is infinite. Leaves without entries are left out.

    >>> units, scale = unit_scaled({"a": jnp.array([2e30, -1e30]), "b": jnp.array([])})
    >>> units[0].tolist(), bool(scale == jnp.float32(2e30))
    ([1.0, -0.5], True)
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if jnp.size(leaf) > 0]
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    if not wide:
        return [], jnp.ones((), jnp.float32)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in wide]))
    # `largest != 0` keeps a NaN visible; `largest > 0` would turn it into zero.
    scale = jnp.where((largest != 0) & ~jnp.isinf(largest), largest, 1.0)
    return [leaf / scale.astype(jnp.real(leaf).dtype) for leaf in wide], scale


def _sum(numbers: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(numbers)) if numbers else jnp.zeros((), jnp.float32)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no floating or complex leaf holds a NaN or an infinity; a bool scalar.

    >>> bool(all_finite({"a": jnp.array([1.0, jnp.inf]), "n": jnp.array(3)}))
    False
    """
    return jnp.all(
        jnp.array(
            [
                jnp.all(jnp.isfinite(leaf))
                for leaf in jax.tree.leaves(tree)
                if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
            ],
            dtype=bool,
        )
    )


def count(tree: PyTree) -> int:
    """Number of elements in all leaves (shapes are enough, no values needed).

    >>> count({"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)})
    10
    """
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: PyTree) -> int:
    """Bytes of all leaves (shapes and dtypes are enough, no values needed).

    >>> size_bytes({"a": jnp.zeros((2, 3), jnp.bfloat16)})
    12
    """
    return sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def digest(tree: PyTree) -> str:
    """SHA-256 over the name, dtype, shape and bytes of every leaf.

    Two trees have one digest exactly when they are equal bit for bit; NaN payloads and
    the sign of zero count. Copies each leaf to the host; PRNG keys are read as their
    key data. Needs every leaf addressable from this process.

    >>> digest({"a": jnp.zeros(2)}) == digest({"a": jnp.zeros(2)})
    True
    >>> digest({"a": jnp.zeros(2)}) == digest({"a": -jnp.zeros(2)})
    False
    """
    whole = hashlib.sha256()
    for path, value in leaf_digests(tree).items():
        whole.update(f"{path}={value}\n".encode())
    return whole.hexdigest()


def leaf_digests(tree: PyTree) -> dict[str, str]:
    """SHA-256 of each leaf's dtype, shape and bytes, by path.

    >>> sorted(leaf_digests({"a": jnp.zeros(2), "b": jnp.ones(2)}))
    ['a', 'b']
    """
    return {path: _leaf_digest(leaf) for path, leaf in named_leaves(tree).items()}


def _leaf_digest(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    header = f"{array.dtype.str if array.dtype.isbuiltin else array.dtype.name}"
    hasher = hashlib.sha256(f"{header}{array.shape}".encode())
    hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()
