"""Verdicts on hypotheses from paired runs: interval, smallest detectable difference, verdict.

Networks are compared on the same seeds and the same images. A difference is uncertain for two
reasons, which patients are in the split and which seed was used; the two are crossed, because every
seed meets every patient. The variance of the first is that of a bootstrap over whole patients of
the mean over seeds; that of the second is the variance between seeds over their number. Their sum,
with Satterthwaite's degrees of freedom, gives a t interval. A bootstrap of three seeds would draw
from three values and its interval would be a fifth too narrow even with the right quantile; that of
t with two degrees of freedom is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from chestlab.evaluation.metrics import (
    BOOTSTRAP_RESAMPLES,
    FINDINGS_RESAMPLES,
    bootstrap_weights,
    weighted_auc,
)

Scores = tuple[np.ndarray, np.ndarray, int]  # what `score` returns

POWER = 0.8  # share of experiments that find a true difference of `Estimate.detectable`


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how uncertain it is.

    Attributes:
        value: the mean.
        low, high: its 95 % interval; of the patients alone where there is one seed.
        error: standard error.
        detectable: the smallest true value that such an experiment tells from 0 in 80 % of cases:
            2.8 standard errors, more where few seeds make most of the error.
        seeds: number of runs.
    """

    value: float
    low: float
    high: float
    error: float
    detectable: float
    seeds: int


@dataclass(frozen=True)
class Scored:
    """One run's probabilities of one split.

    Attributes:
        labels: (N,) or (N, F) of 0 and 1.
        probabilities: of the same shape.
        threshold: chosen on validation images; None for findings.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float | None = None


def estimate(
    values: ArrayLike, resampled: np.ndarray, groups: int, least: float = 0, most: float = 1
) -> Estimate:
    """Mean over seeds with a 95 % interval over seeds and patients.

    Args:
        values: (S,) of the runs, one per seed, on the whole split.
        resampled: (B, S) of the same runs, on B bootstrap samples that all runs share.
        groups: number of patients (of images, where patients are not known).
        least, most: what the values can be; the interval ends there.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    means = resampled.mean(1)
    patients = float(np.var(means[np.isfinite(means)], ddof=1))
    seeds = float(np.var(values, ddof=1) / len(values)) if len(values) > 1 else 0.0
    total = patients + seeds
    uncertain = patients**2 / max(groups - 1, 1) + seeds**2 / max(len(values) - 1, 1)
    freedom = total**2 / uncertain if uncertain else math.inf
    error = math.sqrt(total)
    half = float(t.ppf(0.975, freedom)) * error
    return Estimate(
        value=float(values.mean()),
        low=max(least, float(values.mean()) - half),
        high=min(most, float(values.mean()) + half),
        error=error,
        detectable=half + float(t.ppf(POWER, freedom)) * error,
        seeds=len(values),
    )


def score(runs: Sequence[Scored], measure: str, groups: np.ndarray | None) -> Scores:
    """The measure of every run, on the split and on shared bootstrap samples of it.

    Args:
        runs: one per seed, on the same images.
        measure: ``accuracy`` or ``auc``, of findings the mean over those with both classes.
        groups: (N,) patient of each image; None resamples images.

    Returns:
        (S,) values, (B, S) resampled values, and the number of groups, as `estimate` wants them.

    Raises:
        ValueError: the runs are not on the same images.
    """
    labels = _shared_labels(runs)
    n = len(labels)
    resamples = BOOTSTRAP_RESAMPLES if labels.ndim == 1 else FINDINGS_RESAMPLES
    weights = np.concatenate([np.ones((1, n), np.uint16), bootstrap_weights(n, groups, resamples)])
    columns = []
    for run in runs:
        if measure == "accuracy":
            correct = (run.probabilities >= run.threshold) == (labels == 1)
            columns.append(weights @ correct.astype(np.float64) / weights.sum(1))
        elif labels.ndim == 1:
            columns.append(weighted_auc(labels, run.probabilities, weights))
        else:
            usable = np.flatnonzero(labels.min(0) != labels.max(0))
            areas = [weighted_auc(labels[:, k], run.probabilities[:, k], weights) for k in usable]
            columns.append(np.nanmean(areas, axis=0))
    scores = np.stack(columns, 1)
    return scores[0], scores[1:], len(np.unique(groups)) if groups is not None else n


def _shared_labels(runs: Sequence[Scored]) -> np.ndarray:
    labels = runs[0].labels
    if not all(np.array_equal(run.labels, labels) for run in runs):
        raise ValueError("the runs are not on the same images")
    return labels


def difference(
    first: Sequence[Scored],
    second: Sequence[Scored],
    measure: str,
    groups: np.ndarray | None,
) -> Estimate:
    """Measure of ``first`` less that of ``second``, runs of the same seeds on the same images."""
    _shared_labels([*first, *second])
    return gain(score(first, measure, groups), score(second, measure, groups))


def gain(first: Scores, second: Scores) -> Estimate:
    """`difference` of what `score` has returned for two networks."""
    (values, resampled, groups), (other_values, other_resampled, _) = first, second
    return estimate(values - other_values, resampled - other_resampled, groups, least=-1)


def verdict(gain: Estimate, low: float, high: float) -> str:
    """``supported``, ``refuted`` or ``undecided``.

    A hypothesis claims a gain of ``low`` to ``high``. It is refuted where the interval lies wholly
    outside that range, above it too. It is supported where the interval lies above 0 (above
    ``low``, if that is negative) and meets the range. Anything else is undecided, and so is
    everything with a single seed.

    Args:
        gain: in the unit of the other two.
        low, high: the claim; ``math.inf`` for no upper limit.
    """
    if gain.seeds < 2 or not math.isfinite(gain.low):
        return "undecided"
    if gain.high < low or gain.low > high:
        return "refuted"
    return "supported" if gain.low > min(low, 0) else "undecided"
