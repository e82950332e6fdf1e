"""Profiles: shares of runs above a score, and of workloads solved in time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from jopt.errors import JoptWarning

# K methods; W workloads; P thresholds or ratios; S studies; N trials.


def performance_profile(
    scores_TN: Sequence[ArrayLike], thresholds_P: ArrayLike
) -> np.ndarray:
    """The share of (task, run) with a score above each threshold; larger is better.

    >>> performance_profile([[0.2, 0.6], [0.9]], [0.5, 0.9]).round(3).tolist()
    [0.667, 0.0]
    """
    scores = np.concatenate([np.ravel(np.asarray(t, np.float64)) for t in scores_TN])
    thresholds = np.asarray(thresholds_P, np.float64)
    return (scores[:, None] > thresholds).mean(0)


def median_of_studies(times_WSN: ArrayLike) -> np.ndarray:
    """A method's time on each workload by the external tuning rule of AlgoPerf.

    The best of the N trials of each study, then the median over the S studies (3
    studies of 5 quasi-random trials there). A trial without the target is infinite.

    >>> median_of_studies([[[3.0, 1.0], [np.inf, 5.0], [2.0, 9.0]]])
    array([2.])
    """
    return np.median(np.asarray(times_WSN, np.float64).min(-1), axis=-1)


def time_ratios(times_KW: ArrayLike) -> np.ndarray:
    """r = t / (the smallest t of the workload): (K, W), infinite without the target.

    A workload on which no method reached its target says nothing and is left out, with
    a warning.

    >>> time_ratios([[10.0, 30.0], [20.0, 15.0]]).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    times = np.asarray(times_KW, np.float64)
    best_W = times.min(0)
    reached_W = np.isfinite(best_W)
    if not reached_W.all():
        warnings.warn(
            f"no method reached the target of workloads {np.flatnonzero(~reached_W)}; "
            "they are left out",
            JoptWarning,
            stacklevel=2,
        )
    return times[:, reached_W] / best_W[reached_W]


def time_to_target_profile(times_KW: ArrayLike, ratios_P: ArrayLike) -> np.ndarray:
    """ρ_k(τ): the share of workloads that method k solves within τ times the best.

    (K, P); NaN without a workload that counts. Dahl et al., 2023, arXiv 2306.07179.

    >>> time_to_target_profile([[10.0, 30.0], [20.0, 15.0]], [1, 2]).tolist()
    [[0.5, 1.0], [0.5, 1.0]]
    """
    ratios_KW = time_ratios(times_KW)
    if ratios_KW.shape[1] == 0:
        return np.full((len(ratios_KW), np.size(ratios_P)), np.nan)
    return (ratios_KW[..., None] <= np.asarray(ratios_P, np.float64)).mean(1)


def time_to_target_score(times_KW: ArrayLike, *, max_ratio: float = 4.0) -> np.ndarray:
    """(1/(r − 1)) ∫_1^r ρ_k(τ) dτ with r = `max_ratio`: 1 for the fastest everywhere.

    That is the mean over workloads of max(0, r − r_kw) / (r − 1), so nothing is
    integrated by steps. (K,), NaN without a workload that counts.

    >>> times = [[10, 20, 30, np.inf], [20, 20, 15, 40], [40, 100, 45, 80]]
    >>> time_to_target_score(times).round(6).tolist()
    [0.666667, 0.916667, 0.25]
    """
    ratios_KW = time_ratios(times_KW)
    if ratios_KW.shape[1] == 0:
        return np.full(len(ratios_KW), np.nan)
    return np.maximum(0.0, (max_ratio - ratios_KW) / (max_ratio - 1)).mean(1)
