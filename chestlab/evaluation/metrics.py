"""Numbers from labels and predictions of a two-class problem.

Class 1 (pneumothorax) is the positive class; an image is called positive when its probability is
at least the threshold. Accuracies are fractions in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from chestlab.evaluation.alarms import is_constant, logits_of
from chestlab.evaluation.bootstrap import (
    BOOTSTRAP_RESAMPLES,
    FINDINGS_RESAMPLES,
    bootstrap_weights,
    monte_carlo_error,
    percentile_interval,
    weight_blocks,
    weighted_auc,
    weighted_mean,
)

THRESHOLDS = np.arange(30, 71) / 100  # 0.30..0.70 in steps of 0.01

CALIBRATION_BINS = 10

_UNDEFINED_AUC: dict[str, Any] = {"auc": None, "auc_ci95": None, "auc_ci95_error": None}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits (N,) to probabilities (N,) in float64, without overflow for large ``|logits|``.

    `scipy.special.expit` rounds the last bit of every fourth value differently, and stored
    probabilities have to be reproduced exactly.
    """
    logits = np.asarray(logits, np.float64)
    smaller = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + smaller), smaller / (1 + smaller))


def mean_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, exact for large logits too."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Temperature in 0.05..20: divided by it, the logits have the smallest loss.

    Guo et al., https://arxiv.org/abs/1706.04599. It changes neither the order of the logits, and so
    no AUC, nor their signs. To be called with validation images.
    """
    from scipy.optimize import minimize_scalar

    minimum = minimize_scalar(
        lambda power: mean_loss(labels, logits / np.exp(power)),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(minimum.x))


def choose_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Threshold in 0.30..0.70 (step 0.01) with the highest accuracy.

    Of several equally accurate thresholds the one nearest 0.5 is taken, and of two equally near
    the lower. To be called with validation or out-of-fold images, never with test images.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1.
    """
    predicted = np.asarray(probabilities)[None] >= THRESHOLDS[:, None]
    correct = (predicted == (np.asarray(labels) == 1)[None]).sum(1)
    return float(
        min(THRESHOLDS[correct == correct.max()], key=lambda t: (round(abs(t - 0.5), 6), t))
    )


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; NaN where a class is missing or a score is not finite.

    For labels and scores (N, F) the mean over the columns with both classes, MedMNIST's mean AUC.
    The Mann-Whitney statistic (https://doi.org/10.1148/radiology.143.1.7063747), because it is
    needed after every epoch: scikit-learn's function takes thirty times as long, and a second to
    import.
    """
    if np.ndim(labels) == 2:
        columns = [roc_auc(labels[:, k], scores[:, k]) for k in range(labels.shape[1])]
        usable = [auc for auc in columns if np.isfinite(auc)]
        return float(np.mean(usable)) if usable else float("nan")
    positive = np.asarray(labels) == 1
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs or not np.isfinite(scores).all():
        return float("nan")
    _, place, tied = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(tied) - (tied - 1) / 2)[place]  # of tied scores their mean
    smallest = positive.sum() * (positive.sum() + 1) / 2
    return float((ranks[positive].sum() - smallest) / pairs)


def defined_auc(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """`roc_auc` of logits (N,) or (N, F); None where they differ by less than float noise.

    Of F columns those are left out of the mean.
    """
    if np.ndim(labels) == 1:
        return None if is_constant(logits) else roc_auc(labels, logits)
    kept = [k for k in range(labels.shape[1]) if not is_constant(logits[:, k])]
    return roc_auc(labels[:, kept], logits[:, kept]) if kept else None


def bootstrap_intervals(
    correct: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    resamples: int = BOOTSTRAP_RESAMPLES,
    others: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """95 % percentile-bootstrap intervals of accuracy and AUC.

    Whole groups (patients) are drawn with replacement, because several images of one patient are
    not independent. A resample becomes a weight per image, and all weighted AUCs come from one
    comparison of the images; scikit-learn's function in a loop gives the same numbers some hundred
    times slower. Of few groups the intervals are somewhat too narrow: see docs/results.md.

    Args:
        correct: (N,) booleans, whether the prediction is correct.
        labels: (N,) of 0 and 1.
        scores: (N,), any monotone function of the probability of class 1.
        groups: (N,) patient of each image; None resamples images.
        resamples: number of bootstrap samples.
        others: by name, further (N,) whose mean gets an interval.

    Returns:
        ``accuracy``, ``auc`` and ``others``, each [low, high]; resamples without both classes are
        left out of the AUC's. ``over_constant``: [low, high] of the accuracy less that of always
        answering 0, and 1, paired by image. ``accuracy_error`` and ``auc_error``: see
        `bootstrap.monte_carlo_error`.
    """
    labels, correct = np.asarray(labels), np.asarray(correct, np.float64)
    drawn = [
        (
            weighted_mean(correct, weights),
            weighted_auc(labels, scores, weights),
            *(weighted_mean(correct - (labels == constant), weights) for constant in (0, 1)),
            *(weighted_mean(values, weights) for values in others.values()),
        )
        for weights in weight_blocks(len(labels), groups, resamples)
    ]
    accuracy, auc, *means = np.concatenate(drawn, axis=1)
    return {
        "accuracy": percentile_interval(accuracy),
        "accuracy_error": monte_carlo_error(accuracy),
        "auc": percentile_interval(auc),
        "auc_error": monte_carlo_error(auc),
        "over_constant": [percentile_interval(gain) for gain in means[:2]],
        **dict(zip(others, map(percentile_interval, means[2:]), strict=True)),
    }


def paired_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    thresholds: tuple[float, float],
    groups: np.ndarray | None = None,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> dict[str, Any]:
    """Accuracy and AUC of ``first`` less those of ``second`` on the same images.

    Both are resampled together, by whole groups (patients), so that the difficulty of an image for
    both cancels.

    Args:
        labels: (N,) of 0 and 1.
        first, second: (N,) probabilities of class 1.
        thresholds: of the two, each chosen elsewhere.
        groups: (N,) patient of each image; None resamples images.
        resamples: number of bootstrap samples.

    Returns:
        ``accuracy`` and ``auc``: the differences; ``accuracy_ci95`` and ``auc_ci95``: their 95 %
        percentile-bootstrap intervals; ``accuracy_ci95_error`` and ``auc_ci95_error``: see
        `bootstrap.monte_carlo_error`. Those of the AUC are None where the probabilities of one
        differ by less than float noise.
    """
    labels = np.asarray(labels)
    correct = [
        ((np.asarray(probabilities) >= threshold) == (labels == 1)).astype(np.float64)
        for probabilities, threshold in zip((first, second), thresholds, strict=True)
    ]
    gain = correct[0] - correct[1]
    drawn = [
        (
            weighted_mean(gain, weights),
            weighted_auc(labels, first, weights) - weighted_auc(labels, second, weights),
        )
        for weights in weight_blocks(len(labels), groups, resamples)
    ]
    accuracy, auc = np.concatenate(drawn, axis=1)
    return {
        "accuracy": float(gain.mean()),
        "accuracy_ci95": percentile_interval(accuracy),
        "accuracy_ci95_error": monte_carlo_error(accuracy),
        "auc": roc_auc(labels, first) - roc_auc(labels, second),
        "auc_ci95": percentile_interval(auc),
        "auc_ci95_error": monte_carlo_error(auc),
        **(_UNDEFINED_AUC if any(is_constant(logits_of(p)) for p in (first, second)) else {}),
    }


def effective_patients(patients: np.ndarray) -> float:
    """Number of patients that would tell as much, if all had equally many images.

    (sum n)^2 / sum n^2 over the patients' numbers n of images, Kish's effective sample size
    (Survey Sampling, 1965, 11.7), for images of one patient that all tell the same. A patient with
    many images makes it smaller than the number of patients, as it makes an interval that resamples
    patients wider.

    Args:
        patients: (N,) patient of each image, N > 0.
    """
    counts = np.unique(patients, return_counts=True)[1].astype(np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum())


def _patient_figures(groups: np.ndarray | None) -> dict[str, Any]:
    """How many patients the images (N,) are of; nothing where that is unknown."""
    if groups is None:
        return {}
    counts = np.unique(groups, return_counts=True)[1]
    return {
        "patients": len(counts),
        "effective_patients": effective_patients(groups),
        "most_images_of_a_patient": int(counts.max()),
    }


def evaluate(
    labels: np.ndarray,
    logits: np.ndarray,
    threshold: float,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of one split from logits (N,), finite; see `evaluate_probabilities`."""
    logits = np.asarray(logits, np.float64)
    figures = evaluate_probabilities(labels, sigmoid(logits), threshold, groups)
    return {**figures, "loss": mean_loss(np.asarray(labels), logits)}


def evaluate_probabilities(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of one split.

    Args:
        labels: (N,) of 0 and 1, both present.
        probabilities: (N,) of class 1.
        threshold: probability from which an image is called positive.
        groups: (N,) patient of each image, the unit of the bootstrap; None: the image.

    Returns:
        ``n, loss, accuracy, accuracy_ci95, accuracy_ci95_error, gain_over_constant_ci95, auc,
        auc_ci95, auc_ci95_error, sensitivity, specificity, balanced_accuracy, f1, brier,
        overconfidence, overconfidence_ci95, confusion`` with ``confusion`` as [[TN, FP], [FN, TP]]
        and ``loss`` the mean binary cross-entropy in nats, without weights or smoothing;
        ``.._error`` are of `bootstrap.monte_carlo_error`, ``gain_over_constant_ci95`` of
        `bootstrap_intervals`, by label, and ``overconfidence`` the mean of `overconfidence`.
        Where patients are known, also ``patients``, ``effective_patients`` (of
        `effective_patients`) and ``most_images_of_a_patient``. ``auc``, its interval and error
        are None where the probabilities differ by less than float noise.
    """
    labels = np.asarray(labels).astype(np.int64)
    probabilities = np.asarray(probabilities, np.float64)
    predicted = probabilities >= threshold
    correct = predicted == (labels == 1)
    cells = np.bincount(2 * labels + predicted, minlength=4)
    (tn, fp), (fn, tp) = confusion = cells.reshape(2, 2).tolist()
    too_sure = overconfidence(labels, probabilities)
    others = {"overconfidence": too_sure}
    intervals = bootstrap_intervals(correct, labels, probabilities, groups, others=others)
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    of_truth = np.where(labels == 1, probabilities, 1 - probabilities)
    return {
        "n": len(labels),
        **_patient_figures(groups),
        "loss": float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean()),
        "accuracy": float(correct.mean()),
        "accuracy_ci95": intervals["accuracy"],
        "accuracy_ci95_error": intervals["accuracy_error"],
        "gain_over_constant_ci95": intervals["over_constant"],
        "auc": roc_auc(labels, probabilities),
        "auc_ci95": intervals["auc"],
        "auc_ci95_error": intervals["auc_error"],
        **(_UNDEFINED_AUC if is_constant(logits_of(probabilities)) else {}),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "overconfidence": float(too_sure.mean()),
        "overconfidence_ci95": intervals["overconfidence"],
        "confusion": confusion,
    }


def overconfidence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) probability of the more probable class, less 1 where that is the true one.

    The mean is above 0 where a network is surer than it is right, at a threshold of 0.5.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1.
    """
    right = (probabilities >= 0.5) == (labels == 1)
    return np.maximum(probabilities, 1 - probabilities) - right


def evaluate_findings(
    labels: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    groups: np.ndarray | None = None,
    resamples: int = FINDINGS_RESAMPLES,
) -> dict[str, Any]:
    """All figures of one split with several labels per image.

    Args:
        labels: (N, F) of 0 and 1.
        logits: (N, F) finite.
        names: of the F findings.
        groups: (N,) patient of each image, the unit of the bootstrap; None: the image.
        resamples: number of bootstrap samples.

    Returns:
        ``n``; ``loss``, the mean binary cross-entropy in nats; ``auc``, the mean over the findings
        with both classes (MedMNIST's), ``auc_ci95`` and ``auc_ci95_error``; ``auc_per_finding`` and
        ``auc_ci95_per_finding``, None where a class is missing or the logits differ by less than
        float noise (without any finding left, the means are None as well);
        ``positives_per_finding``; ``resamples``. A finding that has one class only in a resample
        is left out of that resample's mean. Where patients are known, the numbers of
        `evaluate_probabilities`, too.
    """
    labels = np.asarray(labels).astype(np.int64)
    probabilities = sigmoid(logits)
    aucs = [roc_auc(labels[:, k], probabilities[:, k]) for k in range(len(names))]
    usable = np.isfinite(aucs) & [not is_constant(column) for column in np.transpose(logits)]
    drawn = np.full((resamples, len(names)), np.nan)
    weights = bootstrap_weights(len(labels), groups, resamples)
    for k in np.flatnonzero(usable):
        drawn[:, k] = weighted_auc(labels[:, k], probabilities[:, k], weights)
    mean_figures: dict[str, Any] = dict(_UNDEFINED_AUC)
    if usable.any():
        of_usable = drawn[:, usable]
        mean = np.nanmean(of_usable[np.isfinite(of_usable).any(axis=1)], axis=1)
        mean_figures = {
            "auc": roc_auc(labels[:, usable], probabilities[:, usable]),
            "auc_ci95": percentile_interval(mean),
            "auc_ci95_error": monte_carlo_error(mean),
        }
    return {
        "n": len(labels),
        **_patient_figures(groups),
        "loss": mean_loss(labels, logits),
        **mean_figures,
        "auc_per_finding": {name: aucs[k] if usable[k] else None for k, name in enumerate(names)},
        "auc_ci95_per_finding": {
            name: percentile_interval(drawn[:, k]) if usable[k] else None
            for k, name in enumerate(names)
        },
        "positives_per_finding": dict(zip(names, labels.sum(0).tolist(), strict=True)),
        "resamples": resamples,
    }


def bin_of(probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Number of each probability's bin, in the shape of ``probabilities``.

    A probability on the edge of two bins is in the upper one, and 1 in the last.
    """
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)


def calibration(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> dict[str, Any]:
    """How often class 1 is true among images with about the same predicted probability.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1.
        bins: number of equally wide bins of the probability.

    Returns:
        ``bins``, for every bin that holds an image its ``low`` and ``high`` edge, number ``n`` of
        images, mean ``probability`` and ``share`` of class 1; and ``error``, the expected
        calibration error: the mean over the images of the difference of these two in the image's
        bin (Naeini et al., AAAI 2015).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    place = bin_of(probabilities, bins)
    rows = []
    for number in np.unique(place):
        inside = place == number
        rows.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "n": int(inside.sum()),
                "probability": float(probabilities[inside].mean()),
                "share": float(labels[inside].mean()),
            }
        )
    distances = [row["n"] * abs(row["probability"] - row["share"]) for row in rows]
    return {"bins": rows, "error": float(sum(distances) / len(labels))}


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates (K + 1,) at every one of the K different scores, from (0, 0).

    Those of scikit-learn's `roc_curve` without dropping points, of which every run would wait a
    second for the import.

    Args:
        labels: (N,) of 0 and 1, both present.
        scores: (N,) finite.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    positive = np.asarray(labels)[order] == 1
    last_of_tie = np.flatnonzero(np.append(np.diff(np.asarray(scores)[order]) != 0, True))
    true = np.append(0, np.cumsum(positive)[last_of_tie])
    false = np.append(0, last_of_tie + 1) - true
    return false / false[-1], true / true[-1]


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of whether two classifiers err equally often on the same images.

    It takes all images for independent; where patients have several images its p is too small
    (McNemar, Psychometrika 1947).

    Args:
        first: (N,) booleans, whether the first classifier's prediction is correct.
        second: (N,) the same of the second.

    Returns:
        ``only_first`` and ``only_second``, numbers of images that only this one predicts
        correctly, and ``p``, two-sided.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    p = float(binomtest(only_first, n).pvalue) if n else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}
