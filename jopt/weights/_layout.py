"""Under which names the arrays of a file are merged.

A file's tensor becomes one leaf, several (the fused projection of an attention layer),
or none (what is no parameter). Leaves have jopt's names, joined by `/`; those of other
collections than the parameters begin with `batch_stats/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.weights._weights import Leaf, Weights

STATE = "batch_stats/"
# Collections of a file that are kept as `batch_stats`; a run writes `model_state`.
_STATES = ("batch_stats", "model_state")


class Piece(NamedTuple):
    """One tensor of a file and the leaves that it becomes.

    Attributes:
        source: its name in the file.
        leaves: names; empty for a tensor that is copied as it is.
        split: the tensor -> its leaves.
        join: the inverse.
        specs: the matrix view of each leaf, None of what is no matrix; empty where the
            layout does not know.
    """

    source: str
    leaves: tuple[str, ...]
    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    specs: tuple[MatrixSpec | None, ...]


def same(source: str, leaf: str) -> Piece:
    """A tensor that is a leaf as it is."""
    return Piece(source, (leaf,), lambda x: (x,), lambda xs: xs[0], ())


def kept(source: str) -> Piece:
    """A tensor that is no leaf, and is copied."""
    return Piece(source, (), lambda x: (), lambda xs: xs[0], ())


class Plain(NamedTuple):
    """The pieces of a file whose own names are used, and what was left out of it."""

    pieces: tuple[Piece, ...]
    left_out: tuple[str, ...]


def plain_layout(names: Iterable[str]) -> Plain:
    """Pieces of a file with names of jopt or Flax, or with dots between the words.

    A tree with `params` at its top has its parameters there; `batch_stats` (or a run's
    `model_state`) are the statistics, and all else (an optimizer's state, counters) is
    left out. Where no name has a `/`, each `.` is one.

    >>> [p.leaves for p in plain_layout(["params/a/kernel", "step"]).pieces]
    [('a/kernel',)]
    >>> plain_layout(["params/a/kernel", "step"]).left_out
    ('step',)
    """
    names = list(names)
    dotted = not any("/" in name for name in names)
    paths = {name: name.replace(".", "/") if dotted else name for name in names}
    has_params = any(path.startswith("params/") for path in paths.values())
    pieces, left_out = [], []
    for name, path in paths.items():
        top, _, rest = path.partition("/")
        if top in _STATES:
            pieces.append(same(name, STATE + rest))
        elif not has_params:
            pieces.append(same(name, path))
        elif top == "params":
            pieces.append(same(name, rest))
        else:
            left_out.append(name)
    return Plain(tuple(pieces), tuple(left_out))


class NamedWeights:
    """A file's arrays under the names of a layout. Closing it closes the file.

    Attributes:
        weights: the file.
        pieces: its layout.
        leaves: shape and dtype by leaf name, in the order of JAX's paths.
    """

    def __init__(self, weights: Weights, pieces: Sequence[Piece]) -> None:
        self.weights = weights
        self.pieces = tuple(pieces)
        self._home: dict[str, tuple[Piece, int]] = {}
        leaves = {}
        for piece in self.pieces:
            whole = weights.leaves[piece.source]
            for number, (leaf, part) in enumerate(
                zip(piece.leaves, piece.split(outline(whole)), strict=True)
            ):
                if leaf in self._home:
                    raise ConfigError(
                        f"{weights.path}: {self._home[leaf][0].source} and "
                        f"{piece.source} both become {leaf}"
                    )
                self._home[leaf] = piece, number
                leaves[leaf] = Leaf(part.shape, part.dtype)
        _check_nesting(weights, leaves)
        # The order in which JAX flattens the nested dicts that the names stand for.
        order = sorted(leaves, key=lambda path: path.split("/"))
        self.leaves: Mapping[str, Leaf] = {path: leaves[path] for path in order}
        self._last: tuple[str, tuple[np.ndarray, ...]] = ("", ())

    @property
    def path(self) -> str:
        return str(self.weights.path)

    def read(self, leaf: str) -> np.ndarray:
        """One leaf. Parts of a tensor that are asked for in a row are read once."""
        piece, number = self._home[leaf]
        if len(piece.leaves) == 1:
            return piece.split(self.weights.read(piece.source))[0]
        if self._last[0] != piece.source:
            self._last = ("", ())  # freed before the next one is read
            parts = piece.split(self.weights.read(piece.source))
            self._last = piece.source, parts
        return self._last[1][number]

    def specs(self) -> dict[str, MatrixSpec | None]:
        """The matrix views of the leaves whose layout knows them."""
        return {
            leaf: spec
            for piece in self.pieces
            for leaf, spec in zip(piece.leaves, piece.specs, strict=False)
        }

    def close(self) -> None:
        self.weights.close()


def _check_nesting(weights: Weights, leaves: Mapping[str, Leaf]) -> None:
    for leaf in leaves:
        parents = leaf.split("/")[:-1]
        for end in range(1, len(parents) + 1):
            if (above := "/".join(parents[:end])) in leaves:
                raise ConfigError(
                    f"{weights.path}: {above} is an array, and so is {leaf} inside it"
                )


def outline(leaf: Leaf) -> np.ndarray:
    """An array of that shape and type which takes no memory."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
