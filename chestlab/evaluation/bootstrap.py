"""Bootstrap over whole patients: weights of the images, weighted figures, and intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000  # the error of an interval's end is then 2 % of its half width

FINDINGS_RESAMPLES = 2000  # of 14 areas over thousands of images each

BOOTSTRAP_SEED = 0

_LARGEST_BLOCK = 2**20  # weights turned to float64 at once

_MOST_PAIRS = 2**21  # of a positive and a negative image, up to which comparing all is faster


def bootstrap_weights(n: int, groups: np.ndarray | None, resamples: int) -> np.ndarray:
    """(resamples, n) uint16: how often each image is in each resample of whole groups."""
    return np.concatenate(list(weight_blocks(n, groups, resamples)))


def weight_blocks(n: int, groups: np.ndarray | None, resamples: int) -> Iterator[np.ndarray]:
    """`bootstrap_weights`, some of its rows at a time."""
    _, group = np.unique(
        np.arange(n) if groups is None else np.asarray(groups), return_inverse=True
    )
    n_groups = int(group.max()) + 1
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    step = max(1, _LARGEST_BLOCK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n_groups, size=(rows, n_groups))
        drawn += np.arange(rows)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=rows * n_groups)
        yield counts.reshape(rows, n_groups).astype(np.uint16)[:, group]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(resamples,) means of ``values`` (N,); ``weights`` as in `weighted_auc`."""
    return weights @ np.asarray(values, np.float64) / weights.sum(1)


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(resamples,) areas under the ROC curve, NaN where a resample lacks a class.

    The share of pairs, a positive and a negative image, in which the positive has the higher
    score; a tie is half a pair. All pairs of a few thousand images are compared at once and
    counted by a matrix product, which is exact: counts are whole and half numbers.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite.
        weights: (resamples, N), how often each image counts.
    """
    positive, scores = np.asarray(labels) == 1, np.asarray(scores)
    above, below = np.flatnonzero(positive), np.flatnonzero(~positive)
    if len(above) * len(below) > _MOST_PAIRS:
        return _weighted_auc_by_rank(labels, scores, weights)
    wins = (scores[above][:, None] > scores[below]).astype(np.float32)
    wins += 0.5 * (scores[above][:, None] == scores[below])
    aucs = np.full(len(weights), np.nan)
    step = max(1, _LARGEST_BLOCK // len(scores))
    for start in range(0, len(weights), step):
        block = weights[start : start + step]
        ups, downs = block[:, above].astype(np.float32), block[:, below].astype(np.float64)
        pairs = ups.sum(1, dtype=np.float64) * downs.sum(1)
        won = ((ups @ wins) * downs).sum(1)
        np.divide(won, pairs, out=aucs[start : start + step], where=pairs > 0)
    return aucs


def _weighted_auc_by_rank(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """`weighted_auc` from one sorting, for many images."""
    order = np.argsort(scores, kind="stable")
    first_of_tie = np.flatnonzero(np.append(True, np.diff(np.asarray(scores)[order]) != 0))
    positive = np.asarray(labels)[order] == 1
    aucs = np.full(len(weights), np.nan)
    step = max(1, _LARGEST_BLOCK // len(order))
    for start in range(0, len(weights), step):
        block = weights[start : start + step, order].astype(np.float64)
        ups, downs = (
            np.add.reduceat(block * side, first_of_tie, axis=1) for side in (positive, ~positive)
        )
        lower = np.cumsum(downs, axis=1) - downs / 2  # a tie is half a win
        pairs, won = ups.sum(1) * downs.sum(1), (ups * lower).sum(1)
        np.divide(won, pairs, out=aucs[start : start + step], where=pairs > 0)
    return aucs


def percentile_interval(values: np.ndarray) -> list[float]:
    """[low, high] of 95 % of the resamples' values; those that are not finite are left out."""
    return [float(v) for v in np.percentile(values[np.isfinite(values)], [2.5, 97.5])]


def percentile_p(values: np.ndarray, null: float) -> float:
    """Two-sided p of a true value of ``null``: that of `percentile_interval` turned round.

    Twice the smaller share of resamples on one side of ``null``; the sample itself counts as one
    more, so that p is never 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    4.2).

    Args:
        values: of the resamples; those that are not finite are left out, NaN where none is left.
        null: the value.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan
    fewest = min((values <= null).sum(), (values >= null).sum())
    return min(1.0, float(2 * (1 + fewest) / (1 + len(values))))


def monte_carlo_error(values: np.ndarray) -> float:
    """Standard error of the ends of `percentile_interval`: how far another seed moves them.

    Half the distance between the order statistics one standard error of the binomial count above
    and below the quantile (Serfling, Approximation Theorems of Mathematical Statistics, 1980,
    2.3); the larger of the two ends.

    Args:
        values: of the resamples; those that are not finite are left out.
    """
    ordered = np.sort(values[np.isfinite(values)])
    n = len(ordered)
    half = math.sqrt(n * 0.025 * 0.975)
    errors = []
    for share in (0.025, 0.975):
        near = np.clip(np.rint(n * share + np.array([-half, half])).astype(int), 0, n - 1)
        errors.append(float(ordered[near[1]] - ordered[near[0]]) / 2)
    return max(errors)
