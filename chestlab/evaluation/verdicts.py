"""Verdicts on hypotheses from paired runs: interval, smallest detectable difference, verdict.

Configurations are compared on the same seeds (or repeats of a cross-validation) and the same
images. A difference is uncertain for two reasons, which patients are in the split and how training
happened to go; the two are crossed, because every seed meets every patient. So the variance of a
mean difference over R seeds is V = P + T / R:

- P is the variance, over a bootstrap of whole patients that all runs share, of the mean over seeds.
  It does not fall with R: repeats over the same patients are not independent of each other (Nadeau
  and Bengio, Machine Learning 52, 2003, https://doi.org/10.1023/A:1024068626366).
- T is the variance between seeds of the difference of two configurations. Two or three numbers tell
  next to nothing about a variance, so it is pooled over all K configurations of a study: the mean
  over all pairs of them, which is twice the residual mean square of the table configuration x seed
  and has (K - 1)(R - 1) degrees of freedom (Snedecor and Cochran, Statistical Methods, randomised
  blocks). A configuration that trains less steadily than the others has a larger error than this.

V has Satterthwaite's degrees of freedom, V**2 / (P**2 / (patients - 1) + (T / R)**2 / (K - 1)(R -
1)), and gives a t interval and p-values. With one seed T is unknown: the interval is then that of
the patients alone, and every verdict is ``undecided``. With several comparisons, p is also given
after Holm (Scandinavian Journal of Statistics 6, 1979, https://www.jstor.org/stable/4615733).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from chestlab.evaluation.alarms import is_constant, logits_of
from chestlab.evaluation.bootstrap import (
    BOOTSTRAP_RESAMPLES,
    FINDINGS_RESAMPLES,
    bootstrap_weights,
    weighted_auc,
    weighted_mean,
)

Scores = tuple[np.ndarray, np.ndarray, int]  # what `score` returns

ALPHA = 0.05  # of a verdict, two-sided; all intervals are at 1 less this

POWER = 0.8  # share of experiments that find a true difference of `Estimate.detectable`

VERDICTS = ("supported", "outside", "undecided", "refuted")  # winners first


@dataclass(frozen=True)
class Noise:
    """A variance between the seeds of a study.

    Attributes:
        variance: between seeds of one value; 0 where it is unknown.
        freedom: its degrees of freedom; 0 where it is unknown.
    """

    variance: float
    freedom: float


UNKNOWN = Noise(0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how uncertain it is.

    Attributes:
        value: the mean.
        low, high: its 95 % interval; of the patients alone where there is one seed.
        error: standard error.
        freedom: degrees of freedom of ``error``.
        detectable: the smallest true value that such an experiment tells from 0 in 80 % of cases:
            2.8 standard errors, more where few seeds make most of the error. NaN with one seed.
        monte_carlo: standard error of ``low`` and ``high`` because resamples are drawn at random.
        seeds: number of runs.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float
    detectable: float
    monte_carlo: float
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """A decision on a claim; see `verdicts`.

    Attributes:
        raw: ``supported``, ``outside``, ``undecided`` or ``refuted``, without a correction.
        p: two-sided p of no gain (of a gain of ``low``, if that is negative); NaN with one seed.
        holm: as ``raw``, corrected for the number of comparisons.
        p_holm: p after Holm's correction.
    """

    raw: str
    p: float
    holm: str
    p_holm: float


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


def noise_of_differences(values: ArrayLike) -> Noise:
    """Variance between seeds of the difference of two configurations, pooled over all of them.

    Args:
        values: (K, S) of K configurations with the same S seeds.
    """
    values = np.asarray(values, np.float64)
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if not freedom:
        return UNKNOWN
    residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return Noise(2 * float((residual**2).sum()) / freedom, freedom)


def noise_of_values(values: ArrayLike) -> Noise:
    """Variance between seeds of a configuration's own value, pooled over all of them.

    The mean of their variances. What a seed does to all configurations alike (its folds) is in it
    and is known from S values only: Satterthwaite's degrees of freedom of the two mean squares.

    Args:
        values: (K, S) of K configurations with the same S seeds.
    """
    values = np.asarray(values, np.float64)
    configurations, seeds = values.shape
    if seeds < 2:
        return UNKNOWN
    of_seeds = float(np.var(values.mean(0), ddof=1))
    residual = noise_of_differences(values)
    rest = residual.variance / 2 * (1 - 1 / configurations)
    variance = of_seeds + rest
    uncertain = of_seeds**2 / (seeds - 1)
    uncertain += rest**2 / residual.freedom if residual.freedom else 0.0
    return Noise(variance, variance**2 / uncertain if uncertain else seeds - 1)


def estimate(
    values: ArrayLike,
    resampled: np.ndarray,
    groups: int,
    noise: Noise | None = None,
    least: float = 0,
    most: float = 1,
) -> Estimate:
    """Mean over seeds with a 95 % interval over seeds and patients.

    Args:
        values: (S,) of the runs, one per seed, on the whole split.
        resampled: (B, S) of the same runs, on B bootstrap samples that all runs share.
        groups: number of patients (of images, where patients are not known).
        noise: between seeds; by default that of ``values`` alone.
        least, most: what the values can be; the interval ends there.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    noise = noise_of_values(values[None]) if noise is None else noise
    means = resampled.mean(1)
    means = means[np.isfinite(means)]
    value, patients = float(values.mean()), float(np.var(means, ddof=1))
    seeds = noise.variance / len(values)
    error, freedom = _combine(patients, groups, seeds, noise.freedom)
    half = float(t.ppf(1 - ALPHA / 2, freedom)) * error
    # the standard error of a variance of B normal values is its sqrt(2 / (B - 1))th part
    moved = patients * (1 + math.sqrt(2 / (len(means) - 1)))
    other_error, other_freedom = _combine(moved, groups, seeds, noise.freedom)
    known = len(values) > 1 and noise.freedom > 0
    return Estimate(
        value=value,
        low=max(least, value - half),
        high=min(most, value + half),
        error=error,
        freedom=freedom,
        detectable=half + float(t.ppf(POWER, freedom)) * error if known else math.nan,
        monte_carlo=abs(float(t.ppf(1 - ALPHA / 2, other_freedom)) * other_error - half),
        seeds=len(values) if known else 1,
    )


def _combine(
    patients: float, groups: int, seeds: float, seeds_freedom: float
) -> tuple[float, float]:
    """Standard error from the two variances, and its degrees of freedom (Satterthwaite)."""
    total = patients + seeds
    uncertain = patients**2 / max(groups - 1, 1) + seeds**2 / (seeds_freedom or 1)
    return math.sqrt(total), total**2 / uncertain if uncertain else math.inf


def constant_findings(run: Scored) -> np.ndarray:
    """(F,) booleans: the findings with both classes whose outputs differ by less than float noise.

    The run's own mean AUC, of `metrics.evaluate_findings`, leaves them out.
    """
    constant = [is_constant(column) for column in logits_of(run.probabilities).T]
    return (run.labels.min(0) != run.labels.max(0)) & np.array(constant)


def score(runs: Sequence[Scored], measure: str, groups: np.ndarray | None) -> Scores:
    """The measure of every run, on the split and on shared bootstrap samples of it.

    Args:
        runs: one per seed, on the same images.
        measure: ``accuracy`` or ``auc``, of findings the mean over those with both classes. One of
            `constant_findings` counts 0.5 there, so that all runs have the mean over the same
            findings and none gains by giving up a hard one; where all are constant it is NaN.
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
            columns.append(weighted_mean(correct, weights))
        elif labels.ndim == 1:
            columns.append(weighted_auc(labels, run.probabilities, weights))
        else:
            both = np.flatnonzero(labels.min(0) != labels.max(0))
            constant = constant_findings(run)
            of_run = np.where(constant, 0.5, run.probabilities)
            areas = [weighted_auc(labels[:, k], of_run[:, k], weights) for k in both]
            undefined = constant[both].all()
            columns.append(
                np.full(len(weights), np.nan) if undefined else np.nanmean(areas, axis=0)
            )
    scores = np.stack(columns, 1)
    return scores[0], scores[1:], len(np.unique(groups)) if groups is not None else n


def _shared_labels(runs: Sequence[Scored]) -> np.ndarray:
    labels = runs[0].labels
    if not all(np.array_equal(run.labels, labels) for run in runs):
        raise ValueError("the runs are not on the same images")
    return labels


def gain(first: Scores, second: Scores, noise: Noise | None = None) -> Estimate:
    """A configuration's figure less that of another, paired by seed and image.

    Args:
        first, second: what `score` has returned for runs of the same seeds on the same images.
        noise: `noise_of_differences` of the study; by default of these two alone.
    """
    (values, resampled, groups), (other_values, other_resampled, _) = first, second
    return estimate(values - other_values, resampled - other_resampled, groups, noise, least=-1)


def p_value(gain: Estimate, null: float) -> float:
    """Two-sided p of a true value of ``null``; NaN with one seed."""
    from scipy.stats import t

    if gain.seeds < 2 or not math.isfinite(gain.error):
        return math.nan
    if not gain.error:
        return 1.0 if gain.value == null else 0.0
    return float(2 * t.sf(abs(gain.value - null) / gain.error, gain.freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: a false rejection among all has a chance of at most `ALPHA`.

    Args:
        p_values: NaN where nothing could be tested; these are not counted.
    """
    order = [k for k in np.argsort(p_values, kind="stable") if not math.isnan(p_values[k])]
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def verdicts(gains: Sequence[Estimate], claims: Sequence[tuple[float, float]]) -> list[Verdict]:
    """A verdict on each claim of a study, raw and after Holm's correction for their number.

    A hypothesis claims a gain of ``low`` to ``high``. With p below 0.05 it is

    - ``refuted`` where the gain differs from every value of that range, from above too;
    - ``supported`` where there is a gain (one above ``low``, if that is negative) and the measured
      value lies in the range;
    - ``outside`` where there is a gain, but the measured value lies outside the claimed range.

    Anything else is ``undecided``, and so is everything with a single seed. The two questions, is
    there a gain and is the claim wrong, are corrected each for the number of claims.

    Args:
        gains: of all comparisons of the study.
        claims: (low, high) of each, in the unit of the gains; ``math.inf`` for no upper limit.
    """
    of_gain = [p_value(g, min(low, 0)) for g, (low, _) in zip(gains, claims, strict=True)]
    of_claim = [
        p_value(g, _nearest(g.value, *claim)) for g, claim in zip(gains, claims, strict=True)
    ]
    corrected = zip(holm(of_gain), holm(of_claim), strict=True)
    return [
        Verdict(
            _decide(gain.value, claim, p, p_claim),
            p,
            _decide(gain.value, claim, *after),
            after[1] if gain.value < min(claim[0], 0) else after[0],  # of what may be refuted
        )
        for gain, claim, p, p_claim, after in zip(
            gains, claims, of_gain, of_claim, corrected, strict=True
        )
    ]


def _nearest(value: float, low: float, high: float) -> float:
    """The claimed value that is nearest to the measured one."""
    return min(max(value, low), high)


def _decide(value: float, claim: tuple[float, float], p: float, p_claim: float) -> str:
    """The verdict from p of no gain and p of the nearest claimed value."""
    low, high = claim
    if p_claim <= ALPHA:
        return "refuted"
    if p <= ALPHA and value > min(low, 0):
        return "supported" if low <= value <= high else "outside"
    return "undecided"
