"""Task vectors, and models merged from them.

All functions are pure. A method is a `MergeTransform`, a step or a `chain` of steps on
stacked task vectors; `merge` goes from parameters to parameters.
"""

from jopt.merging._chain import chain
from jopt.merging._merge import make_context, merge, reduce_tasks, stacked_vectors
from jopt.merging._methods import METHODS, Method, make_transform
from jopt.merging._recipes import average, task_arithmetic, ties
from jopt.merging._reduce import mean, sum, weighted_sum
from jopt.merging._search import search_scale
from jopt.merging._signs import (
    disjoint_max,
    disjoint_mean,
    disjoint_sum,
    elect_sign,
    elected_signs,
    sign_balance,
)
from jopt.merging._transform import MergeContext, MergeTransform, leafwise, restricted
from jopt.merging._trim import Cut, cut_leaf, magnitude_cut, trim
from jopt.merging._vectors import (
    add,
    analogy,
    apply_task_vector,
    cosine_matrix,
    dot,
    is_mergeable,
    leaf_norms,
    negate,
    norm,
    scale,
    stack,
    sub,
    task_norms,
    task_vector,
    unstack,
)

__all__ = [
    "METHODS",
    "Cut",
    "MergeContext",
    "MergeTransform",
    "Method",
    "add",
    "analogy",
    "apply_task_vector",
    "average",
    "chain",
    "cosine_matrix",
    "cut_leaf",
    "disjoint_max",
    "disjoint_mean",
    "disjoint_sum",
    "dot",
    "elect_sign",
    "elected_signs",
    "is_mergeable",
    "leaf_norms",
    "leafwise",
    "magnitude_cut",
    "make_context",
    "make_transform",
    "mean",
    "merge",
    "negate",
    "norm",
    "reduce_tasks",
    "restricted",
    "scale",
    "search_scale",
    "sign_balance",
    "stack",
    "stacked_vectors",
    "sub",
    "sum",
    "task_arithmetic",
    "task_norms",
    "task_vector",
    "ties",
    "trim",
    "unstack",
    "weighted_sum",
]
