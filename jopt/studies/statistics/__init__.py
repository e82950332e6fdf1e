"""Statistics of comparisons and studies: arrays in, arrays out.

What is about paired seeds takes smaller values as better, as losses are; what is about
scores of methods over tasks takes larger ones as better. Each function says which.
"""

from jopt.studies.statistics._aggregates import (
    AGGREGATES,
    Interval,
    interquartile_mean,
    mean_difference,
    optimality_gap,
    probability_of_improvement,
    stratified_interval,
    win_rate,
)
from jopt.studies.statistics._budget import expected_best
from jopt.studies.statistics._fits import (
    Line,
    effective_robustness,
    fit_line,
    fit_probit,
    probit,
    rank_correlation,
)
from jopt.studies.statistics._line_intervals import (
    LineIntervals,
    line_intervals,
    slope_over_seeds,
)
from jopt.studies.statistics._paired import (
    bootstrap_interval,
    family_pvalues,
    first_at_most,
    holm,
    mean_and_error,
    ordered_pairs,
    paired_pvalues,
    proportion_interval,
)
from jopt.studies.statistics._profiles import (
    median_of_studies,
    performance_profile,
    time_ratios,
    time_to_target_profile,
    time_to_target_score,
)
from jopt.studies.statistics._return_pattern import ReturnPattern, return_pattern
from jopt.studies.statistics._signed_rank import SignedRank, signed_rank_tests

__all__ = [
    "AGGREGATES",
    "Interval",
    "Line",
    "LineIntervals",
    "ReturnPattern",
    "SignedRank",
    "bootstrap_interval",
    "effective_robustness",
    "expected_best",
    "family_pvalues",
    "first_at_most",
    "fit_line",
    "fit_probit",
    "holm",
    "interquartile_mean",
    "line_intervals",
    "mean_and_error",
    "mean_difference",
    "median_of_studies",
    "optimality_gap",
    "ordered_pairs",
    "paired_pvalues",
    "performance_profile",
    "probability_of_improvement",
    "probit",
    "proportion_interval",
    "rank_correlation",
    "return_pattern",
    "signed_rank_tests",
    "slope_over_seeds",
    "stratified_interval",
    "time_ratios",
    "time_to_target_profile",
    "time_to_target_score",
    "win_rate",
]
