"""Which matrix view each leaf of a tree has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, ShapeError, did_you_mean
from jopt.matrix import MatrixSpec, as_matrix_spec, is_matrix_spec
from jopt.transforms._layout import Layout
from jopt.tree import PyTree, named_leaves, path_string, path_words

Shape: TypeAlias = tuple[int, ...]
# What a user may say, see `read_specs`, and what it comes to: a view by path.
MatrixSpecs: TypeAlias = PyTree | Callable[..., Any] | None
Declared: TypeAlias = Mapping[str, MatrixSpec | None]

DENSE = MatrixSpec((0,), (1,))
CONVOLUTION = MatrixSpec((0, 1, 2), (3,))  # height, width, in | out


def read_specs(
    tree: PyTree, matrix_specs: MatrixSpecs = None
) -> tuple[dict[str, MatrixSpec | None], list[str]]:
    """The declared view of each leaf, by path, and what is wrong with `matrix_specs`.

    `matrix_specs` is one of

    - a tree whose leaves are views or None. The path of a leaf of it is the path of a
      parameter, or the beginning of the paths of several (whole keys): a dict
      {"blocks/0/mlp/kernel": view}, a nested dict {"blocks": {"0": view}}, a tree like
      the parameters, and one view for all of them are the same thing;
    - a function (path, shape) -> view or None, which decides alone;
    - a function of one argument, the parameters, -> such a tree.

    A view is a `MatrixSpec` or `optax.contrib.MuonDimensionNumbers`; None says that the
    parameter is no matrix. A parameter that nothing covers is in no result, see
    `find_spec`. Where a view is given for several parameters, one of them that has
    fewer than two axes without the view's batch axes is no matrix: the norms (L, D)
    beside kernels (L, D, F).

    A path that is no parameter, and a parameter that two paths cover, are faults. Paths
    of masked leaves are known.

    >>> params = {"a": {"b": jnp.zeros((2, 3)), "c": jnp.zeros(3)}, "d": jnp.zeros(3)}
    >>> declared, faults = read_specs(params, {"a": DENSE, "e": None})
    >>> declared["a/b"] is DENSE, declared["a/c"], sorted(declared)
    (True, None, ['a/b', 'a/c'])
    >>> faults
    ["matrix_specs has 'e', which is no parameter"]
    """
    if matrix_specs is None:
        return {}, []
    leaves = named_leaves(tree)
    if _is_function(matrix_specs):
        if not _takes_tree(matrix_specs):
            found = {path: matrix_specs(path, x.shape) for path, x in leaves.items()}
            return _as_specs(found)
        matrix_specs = matrix_specs(tree)
    entries, faults = _entries(matrix_specs)
    covering = {
        path: [start for start in _starts(path) if start in entries] for path in leaves
    }
    declared = {
        path: _for_leaf(entries[starts[0]], leaves[path], exact=starts[0] == path)
        for path, starts in covering.items()
        if starts
    }
    faults += _covered_twice(covering)
    used = {start for starts in covering.values() for start in starts}
    faults += _unknown(tree, [entry for entry in entries if entry not in used])
    return declared, faults


def declared_specs(
    tree: PyTree, matrix_specs: MatrixSpecs = None
) -> dict[str, MatrixSpec | None]:
    """The declared view of each leaf, by path; see `read_specs`.

    Fails: `ConfigError` that lists what is wrong with `matrix_specs`.

    >>> declared_specs({"w": jnp.zeros((2, 3))}, lambda path, shape: None)
    {'w': None}
    """
    declared, faults = read_specs(tree, matrix_specs)
    if faults:
        raise ConfigError("\n".join(faults))
    return declared


def _is_function(value: Any) -> bool:
    """Whether a value is only a function: a module that can be called is a tree."""
    return callable(value) and jax.tree_util.all_leaves([value])


def _takes_tree(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # A builtin without a signature.
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return len(required) == 1


def _entries(tree: PyTree) -> tuple[dict[str, MatrixSpec | None], list[str]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: x is None or is_matrix_spec(x)
    )
    found: dict[str, Any] = {}
    faults = []
    for key_path, value in leaves:
        path = path_string(key_path)
        if path in found:
            faults.append(f"matrix_specs has {path!r} twice; keep one of them")
        found[path] = value
    entries, wrong = _as_specs(found)
    return entries, faults + wrong


def _as_specs(
    found: Mapping[str, Any],
) -> tuple[dict[str, MatrixSpec | None], list[str]]:
    specs: dict[str, MatrixSpec | None] = {}
    faults = []
    for path, value in found.items():
        try:
            specs[path] = None if value is None else as_matrix_spec(value)
        except ConfigError as error:
            faults.append(f"matrix_specs for {path or '(root)'!r}: {error}")
    return specs, faults


def _starts(path: str) -> Iterator[str]:
    """The paths of the trees that a leaf is in, itself included.

    >>> list(_starts("a/b"))
    ['', 'a', 'a/b']
    """
    yield ""
    for end, letter in enumerate(path):
        if letter == "/":
            yield path[:end]
    if path:
        yield path


def _for_leaf(spec: MatrixSpec | None, leaf: Any, *, exact: bool) -> MatrixSpec | None:
    if exact or spec is None:
        return spec
    named = (*spec.reduction_axes, *spec.output_axes)
    needed = max(len(named), *(a + 1 if a >= 0 else -a for a in named))
    batch = needed - len(named)
    is_matrix = leaf.ndim >= needed or leaf.ndim - batch >= 2
    return spec if is_matrix else None


def _covered_twice(covering: Mapping[str, list[str]]) -> list[str]:
    first: dict[tuple[str, ...], str] = {}
    for path, starts in covering.items():
        if len(starts) > 1:
            first.setdefault(tuple(starts), path)
    return [
        f"matrix_specs covers {path!r} by {' and by '.join(map(repr, starts))}; keep "
        "one of them"
        for starts, path in first.items()
    ]


def _unknown(tree: PyTree, entries: list[str]) -> list[str]:
    """A fault for each entry that is no part of a tree, its masked leaves included."""
    if not entries:
        return []
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)
    paths = {path_string(key_path): leaf for key_path, leaf in leaves}
    holes = {path for path, leaf in paths.items() if is_hole(leaf)}
    known = {start for path in paths for start in _starts(path)}
    return [
        f"matrix_specs has {entry!r}, which is no parameter"
        + did_you_mean(entry, known - {""})
        for entry in entries
        if entry not in known and not holes.intersection(_starts(entry))
    ]


def is_hole(value: Any) -> bool:
    """Where a wrapper has taken a leaf, or a whole subtree, out of a tree.

    >>> is_hole(optax.MaskedNode())
    True
    """
    return value is None or isinstance(value, optax.MaskedNode)


def find_spec(
    path: str, shape: Shape, declared: Declared | None = None
) -> MatrixSpec | None:
    """The matrix view of one leaf, or None where nothing says that it has one.

    What is declared counts. Everything else is a dense `(in, out)` kernel if it has two
    axes, and a `(height, width, in, out)` kernel if it has four and a word of its path
    is `conv`. Shapes alone say no more: `(layers, in, out)` and `(embed, heads,
    head_dim)` look alike. So a stack of vectors `(layers, width)` has to be declared
    None, and a stack of one-dimensional convolutions its view.

    >>> find_spec("conv_1/kernel", (3, 3, 8, 16)).dims((3, 3, 8, 16))
    (1, 72, 16)
    >>> find_spec("blocks/kernel", (12, 64, 64)) is None
    True
    """
    if declared is not None and path in declared:
        return declared[path]
    if len(shape) == 2:
        return DENSE
    if len(shape) == 4 and "conv" in path_words(path):
        return CONVOLUTION
    return None


def resolve_specs(
    tree: PyTree, matrix_specs: MatrixSpecs = None, layout: Layout | None = None
) -> dict[str, MatrixSpec]:
    """The matrix view of every leaf, by path; `matrix_specs` as in `read_specs`.

    With a `layout`, inside `shard_map` or `pmap`, leaves are shards, and the views are
    those of whole parameters.

    Fails: `ShapeError`, naming every leaf that has no view, whose view does not fit its
    shape, or that is not floating; `ConfigError` as `declared_specs`.

    >>> resolve_specs({"w": jnp.zeros((2, 3))})["w"].dims((2, 3))
    (1, 2, 3)
    """
    if layout is not None:
        tree = layout.global_shapes(tree)
    declared = declared_specs(tree, matrix_specs)
    specs = {}
    faults = []
    for path, leaf in named_leaves(tree).items():
        described = f"{path or '(root)'} {leaf.dtype}{list(leaf.shape)}"
        spec = find_spec(path, leaf.shape, declared)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            faults.append(f"{described}: not a floating array")
        elif spec is None:
            faults.append(f"{described}: no matrix view")
        else:
            try:
                spec.blocks(leaf.shape)
            except ShapeError as error:
                faults.append(f"{described}: {error}")
            specs[path] = spec
    if faults:
        raise ShapeError(
            "these parameters cannot be seen as matrices:\n  "
            + "\n  ".join(faults)
            + "\n  declare the view in matrix_specs={path: MatrixSpec(reduction_axes, "
            "output_axes)}, or give them to another optimizer (optax.partition, or the "
            "labels of jopt.muon)"
        )
    return specs


def specs_of_some(
    tree: PyTree, matrix_specs: MatrixSpecs = None, layout: Layout | None = None
) -> dict[str, MatrixSpec]:
    """The matrix views of the leaves that have one; the others are in no result.

    Fails: `ConfigError` as `declared_specs`; `ShapeError` for a view that does not fit.

    >>> sorted(specs_of_some({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}))
    ['w']
    """
    if layout is not None:
        tree = layout.global_shapes(tree)
    declared = declared_specs(tree, matrix_specs)
    found = {
        path: find_spec(path, leaf.shape, declared)
        for path, leaf in named_leaves(tree).items()
    }
    views = {path: spec for path, spec in found.items() if spec is not None}
    some = {path: leaf for path, leaf in named_leaves(tree).items() if path in views}
    return resolve_specs(some, views) if some else {}
