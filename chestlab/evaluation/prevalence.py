"""Figures at a share of class 1 that is not that of the images, by weighting the two classes."""

from __future__ import annotations

import numpy as np

from chestlab.evaluation import out_of_fold
from chestlab.evaluation.bootstrap import bootstrap_weights, weighted_mean
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.verdicts import Scores

FIGURES = ("accuracy", "ppv", "npv")


def at_prevalence(oof: OutOfFold, name: str, share: float) -> dict[str, Scores]:
    """Accuracy and predictive values at a probability of 0.5, were ``share`` of class 1.

    Sensitivity s and specificity t are those of the images, whatever the share p is. Then the
    accuracy is p s + (1 - p) t, the positive predictive value p s / (p s + (1 - p)(1 - t)), and the
    negative one likewise. The AUC compares images of one class with those of the other, so that it
    does not depend on the share.

    Returns:
        for each of `FIGURES` values and resampled values, as `verdicts.estimate` wants them.
    """
    labels = oof.labels == 1
    drawn = bootstrap_weights(len(labels), oof.patients, out_of_fold.BOOTSTRAP_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(labels)), drawn.dtype), drawn])
    found = oof.logits[name] >= 0
    with np.errstate(invalid="ignore"):  # a resample may have no image of a class
        sensitivity = _stack(found[:, labels], weights[:, labels])
        specificity = _stack(~found[:, ~labels], weights[:, ~labels])
        right = share * sensitivity, (1 - share) * specificity
        wrong = share * (1 - sensitivity), (1 - share) * (1 - specificity)
        values = {
            "accuracy": right[0] + right[1],
            "ppv": right[0] / (right[0] + wrong[1]),
            "npv": right[1] / (right[1] + wrong[0]),
        }
    units = len(labels) if oof.patients is None else len(np.unique(oof.patients))
    return {key: (table[0], table[1:], units) for key, table in values.items()}


def _stack(correct: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(1 + B, R) shares of correct images, of (R, N) booleans and (1 + B, N) weights."""
    return np.stack([weighted_mean(row, weights) for row in correct], 1)
