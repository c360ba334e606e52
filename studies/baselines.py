"""The yardsticks a network must beat: majority class, logistic regression, HOG with an SVM.

    python baselines.py --data FILE.npz

Every yardstick goes through the protocol of the networks and leaves the same files, in a folder of
its own under `results/`: fitted on the training images, its one hyper-parameter chosen there by
cross-validation grouped by patient, its threshold on the validation images, test evaluated once.
Beside that each is cross-validated over train and val, in the folds that `--folds 5 --folds-over
train+val` gives a network, the hyper-parameter chosen anew within each.

Probabilities: logistic regression has its own; an SVM's decision values become probabilities by
Platt's sigmoid, fitted on decision values that were cross-validated on the training images.
HOG: Dalal and Triggs, CVPR 2005, 9 orientations, 7 x 7 cells, blocks of 2 x 2 cells.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import datareader
from costs import BATCHES, milliseconds_per_image
from experiment import make_folder, places, write_probabilities
from flags import add_data, add_folder, check_name, run_name
from folds import fold_rows, join, make_folds
from metrics import choose_threshold, evaluate_probabilities, roc_auc
from notebook_cell import leave
from recipe import Recipe
from storage import InputError, OneLineParser, RunFiles, atomic_write, check_writable
from tasks import SPLIT_TITLES

FOLDS = 5
CELLS = 7  # of HOG along each side, so that every image size gives the same number of features
PIXELS = 28  # larger images are averaged down for the regression on pixels, to at least this


@dataclass(frozen=True)
class Yardstick:
    """One classical classifier.

    Attributes:
        key: what its run is called.
        model: what it is, for people.
        features: images (N, S, S) uint8 to (N, F) float64.
        build: an unfitted scikit-learn classifier for a value of ``grid``.
        grid: values of the inverse strength of the regularisation to choose from; may be empty.
        platt: its decision values are no probabilities yet.
    """

    key: str
    model: str
    features: Callable[[np.ndarray], np.ndarray]
    build: Callable[[float], Any]
    grid: tuple[float, ...] = ()
    platt: bool = False


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


def _majority(_: float) -> Any:
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


YARDSTICKS = (
    Yardstick("majority", "Majority class", pixels, _majority),
    Yardstick(
        "logistic_pixels",
        "Logistic regression on pixels",
        pixels,
        _regression,
        grid=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    ),
    Yardstick(
        "hog_linear_svm",
        "HOG + linear SVM",
        hog_features,
        _linear_svm,
        grid=(1e-3, 1e-2, 1e-1, 1.0),
        platt=True,
    ),
    Yardstick(
        "hog_rbf_svm",
        "HOG + RBF SVM",
        hog_features,
        _rbf_svm,
        grid=(1e-1, 1.0, 10.0, 100.0),
        platt=True,
    ),
)


def fit(yardstick: Yardstick, x: np.ndarray, split: datareader.Split) -> tuple[Any, float | None]:
    """Choose the strength by cross-validation within ``split``, then fit on all of it.

    Args:
        yardstick: what to fit.
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
    if yardstick.grid:
        aucs = [
            np.mean([_auc_of_fold(yardstick.build(value), x, y, *fold) for fold in folds])
            for value in yardstick.grid
        ]
        strength = yardstick.grid[int(np.argmax(aucs))]
    classifier = yardstick.build(strength)
    if yardstick.platt:
        classifier = CalibratedClassifierCV(classifier, method="sigmoid", cv=folds, ensemble=False)
    return classifier.fit(x, y), strength


def inner_folds(split: datareader.Split) -> list[tuple[np.ndarray, np.ndarray]]:
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


def predict(yardstick: Yardstick, classifier: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities (N,) of class 1 of images (N, S, S) uint8."""
    return classifier.predict_proba(yardstick.features(images))[:, 1]


def cross_validate(
    yardstick: Yardstick, data: datareader.TwoClassData
) -> tuple[datareader.Split, np.ndarray, dict[str, Any]]:
    """Train and val divided into folds that keep patients together.

    Returns:
        the images in the order of the folds, their out-of-fold probabilities, and the folds' AUCs.
    """
    folds = make_folds(data, FOLDS, "train+val")
    probabilities, aucs = [], []
    for fold in folds:
        classifier, _ = fit(yardstick, yardstick.features(fold.train.images), fold.train)
        probabilities.append(predict(yardstick, classifier, fold.val.images))
        aucs.append(roc_auc(fold.val.labels, probabilities[-1]))
    summary = {"folds": FOLDS, "over": "train+val", "fold_aucs": aucs}
    summary |= {"auc": float(np.mean(aucs)), "auc_sd": float(np.std(aucs, ddof=1))}
    return join([fold.val for fold in folds]), np.concatenate(probabilities), summary


def _stored_numbers(classifier: Any) -> int:
    """Numbers a fitted classifier keeps to predict with."""
    if hasattr(classifier, "calibrated_classifiers_"):
        return 2 + _stored_numbers(classifier.calibrated_classifiers_[0].estimator)
    last = classifier[-1] if hasattr(classifier, "steps") else classifier
    if hasattr(last, "class_prior_"):
        return 1
    if getattr(last, "kernel", "linear") == "linear":
        return last.coef_.size + 1
    return last.support_vectors_.size + last.dual_coef_.size + 1


def measure(
    yardstick: Yardstick, data: datareader.TwoClassData, name: str, folder: Path, with_test: bool
) -> dict[str, Any]:
    """Fit a yardstick, write the run's artefacts into ``folder`` and return its metrics."""
    import sklearn

    import visualize

    start = time.perf_counter()
    splits = {part: getattr(data, part) for part in datareader.SPLITS}
    if not with_test:
        del splits["test"]
    classifier, strength = fit(yardstick, yardstick.features(data.train.images), data.train)
    probabilities = {
        part: predict(yardstick, classifier, split.images) for part, split in splits.items()
    }
    threshold = choose_threshold(data.val.labels, probabilities["val"])
    figures = {
        part: evaluate_probabilities(split.labels, probabilities[part], threshold, split.patients)
        for part, split in splits.items()
    }
    seconds = time.perf_counter() - start

    del splits["train"]
    n = ", ".join(f"{part} n = {len(split)}" for part, split in splits.items())
    visualize.draw_evaluation(
        folder,
        {
            SPLIT_TITLES[part]: (split.labels, probabilities[part], figures[part])
            for part, split in splits.items()
        },
        title=f"{name} · {yardstick.model}\n{data.source} · {n}",
        threshold=threshold,
    )
    splits["oof"], probabilities["oof"], validated = cross_validate(yardstick, data)
    figures["oof"] = evaluate_probabilities(
        splits["oof"].labels,
        probabilities["oof"],
        choose_threshold(splits["oof"].labels, probabilities["oof"]),
        splits["oof"].patients,
    )
    for part, split in splits.items():
        write_probabilities(folder / f"{part}_probabilities.csv", split, probabilities[part])
    return {
        "name": name,
        "model": yardstick.model,
        "yardstick": True,
        "parameters": _stored_numbers(classifier),
        "data": {
            "source": data.source,
            "size": data.size,
            "sha256": data.sha256,
            "counts": data.counts(),
            "phantom": data.phantom,
        },
        "recipe": {"name": yardstick.key, "grid": list(yardstick.grid)},
        "chosen_strength": strength,
        "device": "cpu",
        "scikit_learn": sklearn.__version__,
        "threshold": threshold,
        "tta": "none",
        "bootstrap_unit": "image" if data.val.patients is None else "patient",
        "seconds": seconds,
        "cross_validation": validated,
        **{split: figures.get(split) for split in (*datareader.SPLITS, "oof")},
        "costs": {
            "input_size": data.size,
            **{f"inference_batch{n}": _inference(yardstick, classifier, data, n) for n in BATCHES},
        },
    }


def _inference(
    yardstick: Yardstick, classifier: Any, data: datareader.TwoClassData, n: int
) -> dict[str, float]:
    """Milliseconds per image, from uint8 image to probability, with quartiles."""
    images = data.val.images[np.arange(n) % len(data.val)]
    return milliseconds_per_image(lambda: predict(yardstick, classifier, images), n)


def run(options: argparse.Namespace) -> None:
    """Measure every yardstick, printing a line for each.

    Raises:
        InputError: the data or a folder cannot be used; nothing has been written.
    """
    check_writable(options.results_dir, "--results-dir")
    data = datareader.load(options.data, options.root, options.source_size)
    for fold in (data, *make_folds(data, FOLDS, "train+val")):
        inner_folds(fold.train)  # so that too few images are told before anything is written
    results_dir, models_dir = places(options, data)
    prefix = f"{options.name}_" if options.name else ""
    for yardstick in YARDSTICKS:
        name = yardstick.key if prefix else run_name(Recipe(yardstick.key), options.data, data.size)
        check_name(prefix + name)
        files = RunFiles(results_dir, models_dir, prefix + name)
        check_writable(files.folder, "--results-dir")
        new = files.replacement  # takes the old one's place when it is complete
        new.remove_temporaries()
        new.clear()
        make_folder(new.folder)
        metrics = measure(yardstick, data, files.name, new.folder, not options.no_test)
        atomic_write(new.metrics, json.dumps(metrics, indent=2) + "\n")
        new.replace(files)
        print(_line(metrics), flush=True)
    if data.phantom:
        print(datareader.PHANTOM_MARK)


def _line(metrics: Mapping[str, Any]) -> str:
    parts = [
        f"{part} accuracy {metrics[part]['accuracy']:.1%}, AUC {metrics[part]['auc']:.3f}"
        for part in ("val", "test")
        if metrics[part] is not None
    ]
    validated = metrics["cross_validation"]
    return (
        f"{metrics['name']}: {'; '.join(parts)}; cross-validated AUC {validated['auc']:.3f} "
        f"(sd {validated['auc_sd']:.3f} over {FOLDS} folds of {metrics['bootstrap_unit']}s)"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; status 2 and one line on stderr for wrong input."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_data(parser)
    parser.add_argument("--no-test", action="store_true", help="leave the test images alone")
    add_folder(parser, "--results-dir", "results")
    parser.add_argument("--name", help="prefix of the runs' names (default: made of the data's)")
    try:
        options = parser.parse_args(argv)
        options.models_dir = Path("trained_models")
        if options.name is not None:
            check_name(options.name)
        run(options)
    except (InputError, OSError) as error:
        leave(2 if isinstance(error, InputError) else 1, f"error: {error}")


if __name__ == "__main__":
    main()
