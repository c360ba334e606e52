"""Figures of subgroups of images, and whether a property of the images could be a shortcut.

Bootstrap ``weights`` (B, N) as in `reliability`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PERMUTATIONS = 2000  # the standard error of a p of 0.05 is then 0.005


def pair_auc(
    labels: np.ndarray, scores: np.ndarray, strata: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(B,) share of pairs of one stratum in which the image of class 1 has the higher score.

    With the folds as strata, only logits of the same network are compared, and a fold that lacks a
    class contributes no pair; a tie is half a pair. NaN where there is no pair.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite.
        strata: (N,) number of each image's stratum.
        weights: (B, N).
    """
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(strata):
        above = np.flatnonzero((strata == number) & (labels == 1))
        below = np.flatnonzero((strata == number) & (labels == 0))
        wins = (scores[above][:, None] > scores[below]).astype(np.float64)
        wins += 0.5 * (scores[above][:, None] == scores[below])
        ups, downs = weights[:, above].astype(np.float64), weights[:, below].astype(np.float64)
        won += ((ups @ wins) * downs).sum(1)
        pairs += ups.sum(1) * downs.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, won / pairs, np.nan)


def accuracy_within(correct: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) share of right predictions (N,) among the images ``inside`` (N,); NaN without one."""
    counted = weights[:, inside]
    with np.errstate(invalid="ignore"):
        return counted @ correct[inside].astype(np.float64) / counted.sum(1)


def rank_correlation_within_classes(
    labels: np.ndarray, values: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(B,) Spearman's correlation of a property and a score within a class, mean of both classes.

    Ranks are those among all images of the class. NaN where the values of a class are all equal.

    Args:
        labels: (N,) of 0 and 1.
        values: (N,) the property.
        scores: (N,).
        weights: (B, N).
    """
    from scipy.stats import rankdata

    of_classes = []
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        x, y = (rankdata(array[rows]) for array in (values, scores))
        counted = weights[:, rows].astype(np.float64)
        total = counted.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_x, mean_y = counted @ x / total, counted @ y / total
            covariance = counted @ (x * y) / total - mean_x * mean_y
            variances = (counted @ x**2 / total - mean_x**2) * (counted @ y**2 / total - mean_y**2)
            of_classes.append(np.where(variances > 1e-9, covariance / np.sqrt(variances), np.nan))
    return np.mean(of_classes, axis=0)


def concentration(
    wrong: np.ndarray, labels: np.ndarray, patients: np.ndarray, most: int = 5
) -> dict[str, Any]:
    """Whether a few patients make most of the mistakes.

    Compared with mistakes that fall on as many images of each class at random: patients with many
    images have many mistakes by chance as well.

    Args:
        wrong: (N,) booleans.
        labels: (N,) class of each image.
        patients: (N,).
        most: number of patients with the most mistakes that are counted together.

    Returns:
        ``patients`` in all and ``with_mistakes``; ``top``, how many are counted, and
        ``top_mistakes``, their mistakes; ``expected_with_mistakes`` and ``expected_top_mistakes``,
        means of the permutations; ``p``, the share of permutations (with the data themselves) with
        as few patients with mistakes; and ``worst``, patient, images and mistakes of each of them.
    """
    names, place = np.unique(patients, return_inverse=True)

    def figures(mistakes: np.ndarray) -> tuple[int, int]:
        counts = np.bincount(place, mistakes, len(names))
        return int((counts > 0).sum()), int(np.sort(counts)[-most:].sum())

    rng = np.random.default_rng(0)
    permuted = []
    for _ in range(PERMUTATIONS):
        shuffled = wrong.copy()
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            shuffled[rows] = rng.permutation(wrong[rows])
        permuted.append(figures(shuffled))
    with_mistakes, top_mistakes = figures(wrong)
    expected = np.mean(permuted, axis=0)
    as_few = sum(number <= with_mistakes for number, _ in permuted)
    mistakes, images = np.bincount(place, wrong, len(names)), np.bincount(place)
    worst = [int(k) for k in np.argsort(-mistakes, kind="stable")[:most] if mistakes[k]]
    return {
        "patients": len(names),
        "with_mistakes": with_mistakes,
        "top": len(worst),
        "top_mistakes": top_mistakes,
        "expected_with_mistakes": float(expected[0]),
        "expected_top_mistakes": float(expected[1]),
        "p": (1 + as_few) / (1 + PERMUTATIONS),
        "worst": [[str(names[k]), int(images[k]), int(mistakes[k])] for k in worst],
    }
