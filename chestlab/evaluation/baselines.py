"""Classifiers without a network: majority class, logistic regression, HOG features with an SVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chestlab.data import splits
from chestlab.data.folds import fold_rows, join, make_folds
from chestlab.evaluation.alarms import logits_of
from chestlab.evaluation.metrics import defined_auc, roc_auc
from chestlab.files.errors import InputError

FOLDS = 5  # of every cross-validation here

CELLS = 7  # of HOG along each side, so that every image size gives the same number of features

PIXELS = 28  # larger images are averaged down for the regression on pixels, to at least this


@dataclass(frozen=True)
class Baseline:
    """One classical classifier.

    Attributes:
        key: name of its run.
        model: its name in tables and pictures.
        features: images (N, S, S) uint8 to (N, F) float64.
        build: an unfitted scikit-learn classifier for a value of ``grid``, without one where
            that is empty.
        grid: values of the inverse strength of the regularisation to choose from; may be empty.
        platt: its decision values are no probabilities yet.
        weights: SHA-256 of the weights that the features are computed with, if any.
    """

    key: str
    model: str
    features: Callable[[np.ndarray], np.ndarray]
    build: Callable[..., Any]
    grid: tuple[float, ...] = ()
    platt: bool = False
    weights: str = ""


def pixels(images: np.ndarray) -> np.ndarray:
    """Pixels in 0..1, of images averaged down to 28 to 55 px."""
    step = max(1, images.shape[1] // PIXELS)
    side = images.shape[1] // step
    blocks = images[:, : side * step, : side * step].reshape(-1, side, step, side, step)
    return blocks.mean(axis=(2, 4)).reshape(len(images), -1) / 255


def hog_features(images: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients: (N, 1296) for images of 28 px and more."""
    from skimage.feature import hog

    cell = max(2, images.shape[1] // CELLS)
    options = {"orientations": 9, "pixels_per_cell": (cell, cell), "cells_per_block": (2, 2)}
    return np.stack([hog(image, **options) for image in images])


def _majority() -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))


def _linear_svm(strength: float) -> Any:
    from sklearn.svm import SVC

    return SVC(C=strength, kernel="linear")


def _rbf_svm(strength: float) -> Any:
    from sklearn.svm import SVC

    return SVC(C=strength, kernel="rbf", gamma="scale")


BASELINES = (
    Baseline("majority", "Majority class", pixels, _majority),
    Baseline(
        "logistic_pixels",
        "Logistic regression on pixels",
        pixels,
        _regression,
        grid=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    ),
    Baseline(
        "hog_linear_svm",
        "HOG + linear SVM",
        hog_features,
        _linear_svm,
        grid=(1e-3, 1e-2, 1e-1, 1.0),
        platt=True,
    ),
    Baseline(
        "hog_rbf_svm",
        "HOG + RBF SVM",
        hog_features,
        _rbf_svm,
        grid=(1e-1, 1.0, 10.0, 100.0),
        platt=True,
    ),
)


def fit(baseline: Baseline, x: np.ndarray, split: splits.Split) -> tuple[Any, float | None]:
    """Choose the strength by cross-validation within ``split``, then fit on all of it.

    Args:
        baseline: what to fit.
        x: (N, F) its features of the images.
        split: labels and patients.

    Returns:
        a classifier with ``predict_proba``, and the value chosen, None where there is no grid.

    Raises:
        InputError: there are too few patients (or images) of a class.
    """
    from sklearn.calibration import CalibratedClassifierCV

    folds = inner_folds(split)
    y = split.labels.astype(np.int64)
    strength = None
    if baseline.grid:
        aucs = [
            np.mean([_auc_of_fold(baseline.build(value), x, y, *fold) for fold in folds])
            for value in baseline.grid
        ]
        strength = baseline.grid[int(np.argmax(aucs))]
    classifier = baseline.build() if strength is None else baseline.build(strength)
    if baseline.platt:
        classifier = CalibratedClassifierCV(
            classifier,
            method="sigmoid",
            cv=folds,
            # scikit-learn has no annotations, and the default of this one is the text "auto"
            ensemble=False,  # pyright: ignore[reportArgumentType]
        )
    return classifier.fit(x, y), strength


def inner_folds(split: splits.Split) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows held out, five times, no patient on both sides.

    Raises:
        InputError: there are too few patients (or images) of a class.
    """
    try:
        return fold_rows(split, FOLDS)
    except InputError:
        text = f"too few patients of a class in train: {FOLDS} folds need one in each"
        raise InputError(text) from None


def _auc_of_fold(
    classifier: Any, x: np.ndarray, y: np.ndarray, rest: np.ndarray, held_out: np.ndarray
) -> float:
    scores = classifier.fit(x[rest], y[rest]).decision_function(x[held_out])
    return roc_auc(y[held_out], scores)


def predict(baseline: Baseline, classifier: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities (N,) of class 1 of images (N, S, S) uint8."""
    return classifier.predict_proba(baseline.features(images))[:, 1]


def cross_validate(
    baseline: Baseline, data: splits.TwoClassData
) -> tuple[splits.Split, np.ndarray, dict[str, Any]]:
    """Train and val divided into folds that keep patients together.

    Returns:
        the images in the order of the folds, their out-of-fold probabilities, and the folds' AUCs,
        None where the probabilities of a fold are all alike.
    """
    folds = make_folds(data, FOLDS, "train+val")
    probabilities, aucs = [], []
    for fold in folds:
        classifier, _ = fit(baseline, baseline.features(fold.train.images), fold.train)
        probabilities.append(predict(baseline, classifier, fold.val.images))
        aucs.append(defined_auc(fold.val.labels, logits_of(probabilities[-1])))
    summary = {"folds": FOLDS, "over": "train+val", "fold_aucs": aucs, "auc": None, "auc_sd": None}
    if None not in aucs:
        summary |= {"auc": float(np.mean(aucs)), "auc_sd": float(np.std(aucs, ddof=1))}
    return join([fold.val for fold in folds]), np.concatenate(probabilities), summary
