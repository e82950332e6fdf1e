"""Task vectors, and models merged from them.

All functions are pure. A method is a `MergeTransform`, a step or a `chain` of steps on
stacked task vectors; `merge` goes from parameters to parameters.
"""

from jopt.merging._adamerging import AdaMerging, adamerging
from jopt.merging._algebra import (
    add,
    analogy,
    cosine_matrix,
    dot,
    leaf_norms,
    negate,
    norm,
    scale,
    sub,
    task_norms,
)
from jopt.merging._chain import chain
from jopt.merging._collections import merge_variables, recompute_statistics
from jopt.merging._condition import condition_all, source_entropy
from jopt.merging._consensus import consensus, search_thresholds, tall_masks
from jopt.merging._diagnosis import Diagnosis, diagnose, mean_of_others
from jopt.merging._distac import (
    Distillation,
    DistillResult,
    default_optimizer,
    distill,
    distill_task_vector,
)
from jopt.merging._distillation import distillation_loss, entropy
from jopt.merging._emr import EMRModel, emr
from jopt.merging._fisher import fisher, fisher_information
from jopt.merging._iso import iso_c, iso_cts
from jopt.merging._lora import LoRA, knots, lora_delta, merge_lora
from jopt.merging._merge import make_context, merge, reduce_tasks, stacked_vectors
from jopt.merging._methods import METHODS, Method, make_transform
from jopt.merging._model_stock import model_stock
from jopt.merging._pcb import pcb
from jopt.merging._post import clip_norm, keep_leaves, multiply
from jopt.merging._recipes import (
    average,
    breadcrumbs,
    consensus_ta,
    consensus_ties,
    dare_linear,
    dare_ties,
    task_arithmetic,
    ties,
)
from jopt.merging._reduce import mean, sum, weighted_sum
from jopt.merging._regmean import gram_matrices, regmean
from jopt.merging._search import search_scale
from jopt.merging._signs import (
    disjoint_max,
    disjoint_mean,
    disjoint_sum,
    elect_sign,
    elected_signs,
    sign_balance,
)
from jopt.merging._soup import greedy_soup
from jopt.merging._sparse import dare, drop_outliers, rescale_norm
from jopt.merging._sphere import karcher, slerp
from jopt.merging._transform import MergeContext, MergeTransform, leafwise, restricted
from jopt.merging._trim import Cut, cut_leaf, magnitude_cut, trim
from jopt.merging._tsv import tsv_m
from jopt.merging._vectors import (
    apply_task_vector,
    is_mergeable,
    stack,
    task_vector,
    unstack,
)
from jopt.merging._wudi import wudi

__all__ = [
    "METHODS",
    "AdaMerging",
    "Cut",
    "Diagnosis",
    "DistillResult",
    "Distillation",
    "EMRModel",
    "LoRA",
    "MergeContext",
    "MergeTransform",
    "Method",
    "adamerging",
    "add",
    "analogy",
    "apply_task_vector",
    "average",
    "breadcrumbs",
    "chain",
    "clip_norm",
    "condition_all",
    "consensus",
    "consensus_ta",
    "consensus_ties",
    "cosine_matrix",
    "cut_leaf",
    "dare",
    "dare_linear",
    "dare_ties",
    "default_optimizer",
    "diagnose",
    "disjoint_max",
    "disjoint_mean",
    "disjoint_sum",
    "distill",
    "distill_task_vector",
    "distillation_loss",
    "dot",
    "drop_outliers",
    "elect_sign",
    "elected_signs",
    "emr",
    "entropy",
    "fisher",
    "fisher_information",
    "gram_matrices",
    "greedy_soup",
    "is_mergeable",
    "iso_c",
    "iso_cts",
    "karcher",
    "keep_leaves",
    "knots",
    "leaf_norms",
    "leafwise",
    "lora_delta",
    "magnitude_cut",
    "make_context",
    "make_transform",
    "mean",
    "mean_of_others",
    "merge",
    "merge_lora",
    "merge_variables",
    "model_stock",
    "multiply",
    "negate",
    "norm",
    "pcb",
    "recompute_statistics",
    "reduce_tasks",
    "regmean",
    "rescale_norm",
    "restricted",
    "scale",
    "search_scale",
    "search_thresholds",
    "sign_balance",
    "slerp",
    "source_entropy",
    "stack",
    "stacked_vectors",
    "sub",
    "sum",
    "tall_masks",
    "task_arithmetic",
    "task_norms",
    "task_vector",
    "ties",
    "trim",
    "tsv_m",
    "unstack",
    "weighted_sum",
    "wudi",
]
