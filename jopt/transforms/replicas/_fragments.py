"""Which parameters are sent together."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jopt.errors import ConfigError
from jopt.tree import PyTree, named_leaves

# `blocks/3/attn`, `layer_3/kernel`, `h3`: a part of the path that ends in a number.
_LAYER = re.compile(r"(?:^|/)[A-Za-z_]*(\d+)(?=/|$)")


class Fragments(NamedTuple):
    """The fragment of each leaf, in flattening order.

    Attributes:
        number: P.
        of_leaf: which fragment each floating leaf belongs to.
    """

    number: int
    of_leaf: tuple[int, ...]

    def part(self, tree: PyTree, fragment: int) -> PyTree:
        """A tree with None outside of a fragment.

        >>> Fragments(2, (0, 1)).part({"a": 1, "b": 2}, 1)
        {'a': None, 'b': 2}
        """
        leaves, treedef = jax.tree.flatten(tree)
        return jax.tree.unflatten(
            treedef,
            [
                leaf if owner == fragment else None
                for leaf, owner in zip(leaves, self.of_leaf, strict=True)
            ],
        )

    def parts(self, tree: PyTree) -> list[PyTree]:
        """One tree for each fragment."""
        return [self.part(tree, fragment) for fragment in range(self.number)]


def assign(
    count: int, fragment_of: Callable[[str], int] | None, params: PyTree
) -> Fragments:
    """Fragments of parameters: P of them, by layer or by a function of the path.

    Layer l belongs to fragment l mod (P - 1): neighbours apart, which Streaming DiLoCo
    found better than together. What is in no layer (embeddings, head, norms) is the
    last fragment. The layer is the first part of the path that ends in a number; where
    no path has one, leaves are dealt out in turn. A stack of scanned layers is one
    leaf, and so in one fragment.

    Fails: `ConfigError` for a fragment without parameters.

    >>> tree = {"blocks": {"0": 1, "1": 2, "2": 3}, "head": 4}
    >>> assign(3, None, tree).of_leaf
    (0, 1, 0, 2)
    """
    paths = list(named_leaves(params))
    if fragment_of is None:
        owners = _by_layer(paths, count)
    else:
        owners = [int(fragment_of(path)) for path in paths]
    strange = sorted(set(owners) - set(range(count)))
    empty = sorted(set(range(count)) - set(owners)) if paths else []
    if empty or strange:
        raise ConfigError(
            f"of the fragments 0 to {count - 1}, {empty} have no parameters, and "
            f"{strange} are none; the {len(paths)} parameters are in "
            f"{sorted(set(owners))}: take fewer fragments, or pass fragment_of=, a "
            "function from a path to 0, 1, ..."
        )
    return Fragments(count, tuple(owners))


def _by_layer(paths: list[str], count: int) -> list[int]:
    if count == 1:
        return [0] * len(paths)
    found: list[Any] = [_LAYER.search(path) for path in paths]
    if not any(found):
        return [place % count for place in range(len(paths))]
    return [int(m[1]) % (count - 1) if m else count - 1 for m in found]
