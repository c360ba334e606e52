"""How far out-of-fold probabilities can be believed: calibration, thresholds, the surest images.

Arrays are of N images in R repeats of a cross-validation. Bootstrap ``weights`` (B, N) say how
often each image counts in each resample, see `bootstrap.bootstrap_weights`; a row of ones is the
images themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chestlab.evaluation.bootstrap import (
    BOOTSTRAP_RESAMPLES,
    percentile_interval,
    weight_blocks,
    weighted_mean,
)
from chestlab.evaluation.metrics import (
    CALIBRATION_BINS,
    THRESHOLDS,
    bin_of,
    calibration,
    fit_temperature,
    sigmoid,
)

TEMPERATURES = np.geomspace(0.05, 20, 241)  # neighbours differ by 2.5 %; limits of fit_temperature

CHANCE_DRAWS = 2000  # of labels; the mean error that chance makes is then known to 1 %


def nested_values(
    labels: np.ndarray,
    outputs: np.ndarray,
    folds: np.ndarray,
    fit: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """What ``fit`` finds for each image without its fold: on the other folds of the repeat.

    The outputs of the other folds come from other networks of the same recipe, so that they stand
    for those of a network that has not seen the images.

    Args:
        labels: (N,) of 0 and 1.
        outputs: (R, N) out of fold, logits or probabilities, as ``fit`` wants them.
        folds: (R, N) number of each image's fold.
        fit: called with labels and outputs of the other folds.

    Returns:
        (R, N), the same for all images of a fold.
    """
    values = np.empty(outputs.shape)
    for of_repeat, of_folds, found in zip(outputs, folds, values, strict=True):
        for number in np.unique(of_folds):
            inside = of_folds == number
            found[inside] = fit(labels[~inside], of_repeat[~inside])
    return values


def resampled_thresholds(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) what `metrics.choose_threshold` would choose in each resample, from logits (N,)."""
    return _best_thresholds(labels, sigmoid(logits), weights)


def threshold_interval(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None
) -> list[float]:
    """[low, high] of 95 % of the thresholds that resamples of the images would choose.

    The threshold with the highest accuracy moves in jumps, so that on few images the interval need
    not lie evenly around it, and may even leave it out.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1, of the images that the threshold is chosen on.
        groups: (N,) patient of each image, the unit of the bootstrap; None: the image.
    """
    drawn = [
        _best_thresholds(labels, probabilities, weights)
        for weights in weight_blocks(len(labels), groups, BOOTSTRAP_RESAMPLES)
    ]
    return percentile_interval(np.concatenate(drawn))


def _best_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    near_half = np.lexsort((THRESHOLDS, np.round(np.abs(THRESHOLDS - 0.5), 6)))
    candidates = THRESHOLDS[near_half]  # of equally accurate ones the first is taken
    positive = np.asarray(probabilities)[:, None] >= candidates
    correct = positive == (np.asarray(labels) == 1)[:, None]
    return candidates[np.argmax(weights @ correct.astype(np.float64), axis=1)]


def resampled_temperatures(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(B,) the temperature of `TEMPERATURES` with the smallest loss in each resample."""
    scaled = np.asarray(logits, np.float64)[:, None] / TEMPERATURES
    losses = np.logaddexp(0, scaled) - np.asarray(labels)[:, None] * scaled
    return TEMPERATURES[np.argmin(weights @ losses, axis=1)]


def calibration_errors(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(B,) expected calibration error, as of `metrics.calibration`, in each resample."""
    inside = bin_of(probabilities)[:, None] == np.arange(CALIBRATION_BINS)
    gaps = weights @ (inside * (probabilities - labels)[:, None])
    return np.abs(gaps).sum(1) / weights.sum(1)


def chance_calibration_error(probabilities: np.ndarray) -> float:
    """Mean calibration error of probabilities (N,) that are exactly right, because N is finite.

    Labels are drawn from the probabilities themselves, independently for each image.
    """
    draws = np.random.default_rng(0).random((CHANCE_DRAWS, len(probabilities)))
    inside = bin_of(probabilities)[:, None] == np.arange(CALIBRATION_BINS)
    gaps = (probabilities - (draws < probabilities)) @ inside
    return float(np.abs(gaps).sum(1).mean() / len(probabilities))


def calibration_out_of_fold(
    labels: np.ndarray, logits: np.ndarray, folds: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """How well single networks of a recipe are calibrated, and what a temperature changes.

    Args:
        labels: (N,) of 0 and 1.
        logits: (N,) finite, each of the network that was trained without the image's fold.
        folds: (N,) number of each image's fold, two folds or more.
        groups: (N,) patient of each image, the unit of the bootstrap; None: the image.

    Returns:
        ``n``; ``temperature``, of `fit_temperature` on all images, with ``temperature_ci95``, how
        it moves when they are resampled; ``temperature_without_fold``, those of all other folds,
        by number of the fold. ``before`` and ``after``, in which each image's logit is divided by
        the temperature without its fold: ``loss`` (mean binary cross-entropy in nats), ``brier``
        and ``ece``, the calibration error, with ``ece_by_chance``, see `chance_calibration_error`.
        ``change``: after less before. Intervals ``loss_ci95`` and ``brier_ci95`` resample the
        images and keep the temperatures. The calibration error has none: resampling adds noise to
        every bin, so that it is larger in nearly all resamples.
    """
    labels, logits = np.asarray(labels).astype(np.int64), np.asarray(logits, np.float64)
    (temperatures,) = nested_values(labels, logits[None], folds[None], fit_temperature)
    stages = {"before": logits, "after": logits / temperatures}
    scores = {stage: _image_scores(labels, values) for stage, values in stages.items()}
    before, after = scores.values()
    scores["change"] = {measure: after[measure] - before[measure] for measure in after}
    rows = [(stage, measure) for stage, of_stage in scores.items() for measure in of_stage]
    drawn = [
        (
            resampled_temperatures(labels, logits, weights),
            *(weighted_mean(scores[stage][measure], weights) for stage, measure in rows),
        )
        for weights in weight_blocks(len(labels), groups, BOOTSTRAP_RESAMPLES)
    ]
    of_temperature, *of_scores = map(percentile_interval, np.concatenate(drawn, axis=1))
    figures: dict[str, dict[str, Any]] = {stage: {} for stage in scores}
    for (stage, measure), ends in zip(rows, of_scores, strict=True):
        value = float(scores[stage][measure].mean())
        figures[stage] |= {measure: value, f"{measure}_ci95": ends}
    for stage, values in stages.items():
        probabilities = sigmoid(values)
        figures[stage]["ece"] = calibration(labels, probabilities)["error"]
        figures[stage]["ece_by_chance"] = chance_calibration_error(probabilities)
    figures["change"]["ece"] = figures["after"]["ece"] - figures["before"]["ece"]
    return {
        "n": len(labels),
        "temperature": fit_temperature(labels, logits),
        "temperature_ci95": of_temperature,
        "temperature_without_fold": [
            float(temperatures[folds == number][0]) for number in np.unique(folds)
        ],
        **figures,
    }


def _image_scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Log loss and squared error (N,) of each image."""
    return {
        "loss": np.logaddexp(0, logits) - labels * logits,
        "brier": (sigmoid(logits) - labels) ** 2,
    }


def shares_by_bin(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often class 1 is true among images with about the same probability, over all repeats.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (R, N) of class 1.
        weights: (B, N).

    Returns:
        (B, bins) share of class 1 and (B, bins) mean probability, NaN where a bin is empty; and
        (bins,) number of predictions, those of all repeats together.
    """
    inside = bin_of(probabilities)[..., None] == np.arange(CALIBRATION_BINS)  # (R, N, bins)
    counts = weights @ inside.sum(0)
    with np.errstate(invalid="ignore"):
        share = weights @ (inside.sum(0) * np.asarray(labels)[:, None]) / counts
        mean = weights @ (inside * probabilities[..., None]).sum(0) / counts
    return share, mean, inside.sum((0, 1))


def kept_accuracies(
    correct: np.ndarray, confidence: np.ndarray, weights: np.ndarray, left_out: Sequence[float]
) -> np.ndarray:
    """Accuracy on the surest images (selective prediction).

    El-Yaniv and Wiener, JMLR 11, 2010. An image at the border counts in part, so that in every
    resample the same share is left out.

    Args:
        correct: (N,) booleans, whether the prediction is right.
        confidence: (N,), larger for a surer prediction.
        weights: (B, N).
        left_out: L shares in 0..1, below 1, of the images, the least sure ones.

    Returns:
        (B, L).
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    right = np.asarray(correct, np.float64)[order]
    counts = weights[:, order].astype(np.float64)
    seen, hits = np.cumsum(counts, axis=1), np.cumsum(counts * right, axis=1)
    rows = np.arange(len(counts))
    accuracies = []
    for share in left_out:
        wanted = (1 - share) * seen[:, -1]
        last = np.minimum((seen < wanted[:, None]).sum(1), len(right) - 1)
        beyond = seen[rows, last] - wanted  # of the last image
        accuracies.append((hits[rows, last] - beyond * right[last]) / wanted)
    return np.stack(accuracies, 1)
