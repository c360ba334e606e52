"""Out-of-fold logits of several configurations on the same folds, with intervals and tables."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from chestlab.data.folds import CrossValidationSplits
from chestlab.evaluation.alarms import alarms
from chestlab.evaluation.bootstrap import (
    BOOTSTRAP_RESAMPLES,
    bootstrap_weights,
    weighted_auc,
    weighted_mean,
)
from chestlab.evaluation.metrics import choose_threshold, sigmoid
from chestlab.evaluation.reliability import nested_values
from chestlab.evaluation.verdicts import (
    Estimate,
    Scores,
    estimate,
    gain,
    noise_of_differences,
    noise_of_values,
)
from chestlab.files.atomic import write_csv
from chestlab.files.errors import InputError

MEASURES = ("auc", "accuracy")

NESTED_ACCURACY = "nested_accuracy"

IMAGE_COLUMNS = ("split", "index", "label")  # of a table, with its patient

FOLD = "fold"


def _as_stored(logits: ArrayLike) -> np.ndarray:
    return np.asarray(logits, np.float32).astype(np.float64)


class OutOfFold:
    """Out-of-fold logits of several configurations on the same folds.

    AUC is the mean over the folds of the AUC within a fold: each is of one network, whose logits
    need not be on the scale of another's. Accuracy is at a probability of 0.5, nested accuracy at
    the threshold that is best on the other folds of the repeat. The noise of
    training is pooled over the configurations, see `verdicts`: over all networks, and where one is
    compared with a classical classifier, over the differences of all networks to that one.

    Args:
        origin: (N,) split of each image in its source.
        index: (N,) row of each image there.
        labels: (N,) of 0 and 1.
        patients: (N,) of the images, or None where they are not known.
        folds: (repeats, N) number of each image's fold.
        logits: (repeats, N) by configuration, of float32 precision.
        classical: configurations that are no networks.
    """

    def __init__(
        self,
        origin: np.ndarray,
        index: np.ndarray,
        labels: np.ndarray,
        patients: np.ndarray | None,
        folds: np.ndarray,
        logits: dict[str, np.ndarray],
        classical: Collection[str] = (),
    ) -> None:
        self.origin, self.index, self.labels, self.patients = origin, index, labels, patients
        self.folds, self.logits, self.classical = folds, logits, frozenset(classical)
        self._scores: dict[tuple[str, str], Scores] = {}

    @classmethod
    def of(
        cls,
        splits: CrossValidationSplits,
        logits: Mapping[str, np.ndarray],
        classical: Collection[str] = (),
    ) -> OutOfFold:
        """The same as after `write` and `read`: logits are rounded to float32."""
        pool = splits.pool
        assert pool.origin is not None  # of images of two splits
        of_images = pool.origin, pool.index, pool.labels, pool.patients, splits.assignment
        rounded = {name: _as_stored(values) for name, values in logits.items()}
        return cls(*of_images, rounded, classical)

    def add(self, name: str, logits: np.ndarray, classical: bool = False) -> None:
        """Add a configuration, its logits rounded as those of `of`."""
        self.logits[name] = _as_stored(logits)
        if classical:
            self.classical |= {name}

    @cached_property
    def _weights(self) -> np.ndarray:
        """(1 + B, N): every image once, then the bootstrap samples of patients."""
        drawn = bootstrap_weights(len(self.labels), self.patients, BOOTSTRAP_RESAMPLES)
        return np.concatenate([np.ones((1, len(self.labels)), drawn.dtype), drawn])

    def score(self, name: str, measure: str) -> Scores:
        """The measure in every repeat, on all images and on shared bootstrap samples of them.

        Returns:
            (R,) values, (B, R) resampled values, and the number of patients (or images), as
            `verdicts.estimate` wants them.
        """
        if (name, measure) not in self._scores:
            pairs = zip(self.logits[name], self.folds, strict=True)
            of_repeat = {
                "auc": self._auc,
                "accuracy": self._accuracy,
                NESTED_ACCURACY: self._nested_accuracy,
            }[measure]
            scores = np.stack([of_repeat(*pair) for pair in pairs], 1)
            units = np.arange(len(self.labels)) if self.patients is None else self.patients
            self._scores[name, measure] = scores[0], scores[1:], len(np.unique(units))
        return self._scores[name, measure]

    def _auc(self, logits: np.ndarray, folds: np.ndarray) -> np.ndarray:
        areas = []
        for number in np.unique(folds):
            rows = np.flatnonzero(folds == number)
            areas.append(weighted_auc(self.labels[rows], logits[rows], self._weights[:, rows]))
        known = np.isfinite(areas)  # in a resample a small fold may lack a class
        with np.errstate(invalid="ignore"):
            return np.where(known, areas, 0).sum(0) / known.sum(0)

    def _accuracy(self, logits: np.ndarray, folds: np.ndarray) -> np.ndarray:
        correct = (logits >= 0) == (self.labels == 1)
        return weighted_mean(correct, self._weights)

    def _nested_accuracy(self, logits: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Accuracy at thresholds chosen on other folds; resamples keep those of all images."""
        probabilities = sigmoid(logits)
        arrays = self.labels, probabilities[None], folds[None]
        (thresholds,) = nested_values(*arrays, choose_threshold)
        correct = (probabilities >= thresholds) == (self.labels == 1)
        return weighted_mean(correct, self._weights)

    def estimate(self, name: str, measure: str) -> Estimate:
        """A configuration's figure with its interval."""
        noise = noise_of_values(self._values(name in self.classical, measure))
        return estimate(*self.score(name, measure), noise)

    def gain(self, name: str, over: str, measure: str) -> Estimate:
        """A configuration's figure less that of another, paired, with its interval."""
        classical = name in self.classical, over in self.classical
        values = self._values(all(classical), measure)
        if any(classical) and not all(classical):  # the same differences of all networks
            other = name if classical[0] else over
            noise = noise_of_values(values - self.score(other, measure)[0])
        else:
            noise = noise_of_differences(values)
        return gain(self.score(name, measure), self.score(over, measure), noise)

    def _values(self, classical: bool, measure: str) -> np.ndarray:
        """(K, R) of all networks, or of all classical classifiers."""
        pool = [name for name in self.logits if (name in self.classical) == classical]
        return np.stack([self.score(name, measure)[0] for name in pool])

    def alarms(self) -> list[str]:
        """What is suspect about a configuration, see `alarms.alarms`; each fold is of one network.

        Classical classifiers may predict one class by design.
        """
        return [
            f"`{name}`: {sentence}"
            for name, logits in self.logits.items()
            if name not in self.classical
            for sentence in alarms(*self._by_network(logits))
        ]

    def _by_network(
        self, logits: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Logits and predicted classes of each network's held-out images."""
        by_network = {
            f"fold {fold + 1} of repeat {repeat}": values[folds == fold]
            for repeat, (values, folds) in enumerate(zip(logits, self.folds, strict=True), 1)
            for fold in np.unique(folds)
        }
        return by_network, {name: values >= 0 for name, values in by_network.items()}

    def write(self, path: Path) -> None:
        """Write a row per image, with a column for each configuration and repeat."""
        repeats = range(1, len(self.folds) + 1)
        patients = [""] * len(self.labels) if self.patients is None else self.patients.tolist()
        columns = {
            **dict(zip(IMAGE_COLUMNS, (self.origin, self.index, self.labels), strict=True)),
            "patient": patients,
            **{f"{FOLD} {number}": self.folds[number - 1] + 1 for number in repeats},
            **{
                f"{name} {number}": [str(logit) for logit in logits[number - 1].astype(np.float32)]
                for name, logits in self.logits.items()
                for number in repeats
            },
        }
        write_csv(path, list(columns), list(zip(*columns.values(), strict=True)))

    @classmethod
    def read(cls, path: Path) -> OutOfFold:
        """Read what `write` has written.

        Raises:
            InputError: the table is missing or damaged.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                head, *rows = csv.reader(file)
            columns = dict(zip(head, zip(*rows, strict=True), strict=True))
            kinds = zip(IMAGE_COLUMNS, (str, np.int64, np.uint8), strict=True)
            origin, index, labels = (np.array(columns.pop(name), kind) for name, kind in kinds)
            patients = np.array(columns.pop("patient"))
            by_name: dict[str, list] = {}
            for column, values in columns.items():
                name, number = column.rsplit(" ", 1)
                by_name.setdefault(name, []).append(values)
                if int(number) != len(by_name[name]):
                    raise ValueError(column)
            folds = np.array(by_name.pop(FOLD), np.int64) - 1
            logits = {name: _as_stored(values) for name, values in by_name.items()}
            same = all(values.shape == folds.shape for values in logits.values())
            same = same and all(np.isfinite(values).all() for values in logits.values())
        except (OSError, ValueError, KeyError, csv.Error):
            same = False
        if not same:
            raise InputError(f"'{path}' is missing, or not a table of out-of-fold logits")
        known = patients if np.all(patients != "") else None
        return cls(origin, index, labels, known, folds, logits)
