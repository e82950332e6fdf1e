"""Parameters in files of several formats, the names of torch, and merging on disk.

The edge of `jopt.merging`: what is read and written is here, what is computed is there.
"""

from jopt.weights._layout import NamedWeights, Piece, plain_layout
from jopt.weights._merge import merge_files, planned
from jopt.weights._names import Rule, rules_from, torch_layout
from jopt.weights._open import open_weights
from jopt.weights._settings import default_merge, settings_from
from jopt.weights._weights import Leaf, Weights
from jopt.weights._write import new_weights

__all__ = [
    "Leaf",
    "NamedWeights",
    "Piece",
    "Rule",
    "Weights",
    "default_merge",
    "merge_files",
    "new_weights",
    "open_weights",
    "plain_layout",
    "planned",
    "rules_from",
    "settings_from",
    "torch_layout",
]
