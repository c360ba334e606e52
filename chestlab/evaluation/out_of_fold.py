"""Out-of-fold logits of several configurations on the same folds, with intervals and tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from chestlab.data.folds import CrossValidationSplits
from chestlab.evaluation.alarms import alarms, is_constant
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
from chestlab.files.reading import read_csv, shown

MEASURES = ("auc", "accuracy")

NESTED_ACCURACY = "nested_accuracy"

IMAGE_COLUMNS = ("split", "index", "label")  # of a table, with its patient

PATIENT, FOLD = "patient", "fold"

ORIGINS = ("train", "val")  # splits that are cross-validated

NETWORK_KIND = "network"  # of the row of a network that was trained, in the tables of studies

BASELINE_KIND = "yardstick"  # of a classical classifier's row

ESTIMATED_KIND = "estimated"  # of a network's row with batch-norm statistics estimated anew

AVERAGE_KIND = "average"  # of a row with the mean logits of others


DIGITS = 4  # that are kept of a logit


def _as_stored(logits: ArrayLike) -> np.ndarray:
    exact = np.asarray(logits, np.float32)
    digits = [float(f"{logit:.{DIGITS}g}") for logit in exact.ravel()]
    return np.array(digits, np.float64).reshape(exact.shape)


class OutOfFold:
    """Out-of-fold logits of several configurations on the same folds.

    AUC is the mean over the folds of the AUC within a fold: each is of one network, whose logits
    need not be on the scale of another's. Accuracy is at a probability of 0.5, nested accuracy at
    the threshold that is best on the other folds of the repeat. The noise of
    training is pooled over the configurations, see `verdicts`: over all networks that were trained
    separately, and where one is compared with a classical classifier, over their differences to
    that one. Rows made of another row's weights would count the same training twice. A row with a
    network that failed, of the same output for every image, is in the pool of its own figures only:
    how much other trainings vary is not seen by it.

    Args:
        origin: (N,) split of each image in its source.
        index: (N,) row of each image there.
        labels: (N,) of 0 and 1.
        patients: (N,) of the images, or None where they are not known.
        folds: (repeats, N) number of each image's fold.
        logits: (repeats, N) by configuration, of float32 precision.
        classical: configurations that are no networks.
        up_to_date: configurations whose batch-norm statistics were estimated on training images,
            or frozen.
        derived: configurations that evaluate the weights of others in another way.
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
        self.up_to_date: frozenset[str] = frozenset()
        self.derived: frozenset[str] = frozenset()
        self._scores: dict[tuple[str, str], Scores] = {}
        self._constant: dict[str, bool] = {}

    @classmethod
    def of(
        cls,
        splits: CrossValidationSplits,
        logits: Mapping[str, np.ndarray],
        classical: Collection[str] = (),
    ) -> OutOfFold:
        """The same as after `write` and `read`: logits have `DIGITS` digits."""
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

    def is_of_same_images(self, other: OutOfFold) -> bool:
        """Whether both judge the same X-rays on the same folds."""
        return all(
            np.array_equal(getattr(self, key), getattr(other, key))
            for key in ("origin", "index", "labels", "patients", "folds")
        )

    def describe(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what configurations are from the entries of a study's table.

        Args:
            entries: by configuration, each with its ``kind``, and where they are known the
                hyperparameters that differ (``changes`` or ``recipe_changes``) and the ``variant``
                of an exported file.
        """
        self.classical = _names(entries, lambda entry: entry["kind"] == BASELINE_KIND)
        self.up_to_date = _names(entries, _has_own_statistics)
        self.derived = _names(entries, _is_derived)

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
        noise = noise_of_values(self._values(name in self.classical, measure, name))
        return estimate(*self.score(name, measure), noise)

    def gain(self, name: str, over: str, measure: str) -> Estimate:
        """A configuration's figure less that of another, paired, with its interval."""
        classical = name in self.classical, over in self.classical
        values = self._values(all(classical), measure, name, over)
        if any(classical) and not all(classical):  # the same differences of all networks
            other = name if classical[0] else over
            noise = noise_of_values(values - self.score(other, measure)[0])
        else:
            noise = noise_of_differences(values)
        return gain(self.score(name, measure), self.score(over, measure), noise)

    def _values(self, classical: bool, measure: str, *shown: str) -> np.ndarray:
        """(K, R) of `pool`."""
        return np.stack([self.score(name, measure)[0] for name in self.pool(classical, *shown)])

    def pool(self, classical: bool, *shown: str) -> list[str]:
        """What the noise of a figure of ``shown`` is pooled over: `separate`, and what failed."""
        failed = [name for name in shown if self.failed(name)]
        return list(dict.fromkeys([*self.separate(classical), *failed]))

    def separate(self, classical: bool) -> list[str]:
        """The networks that were trained separately, or all classical classifiers.

        Without those that failed, unless all did.
        """
        names = [
            name
            for name in self.logits
            if (name in self.classical) == classical and name not in self.derived
        ]
        return [name for name in names if not self.failed(name)] or names

    def failed(self, name: str) -> bool:
        """Whether a network of this row gives all images that were held out the same output."""
        if name in self.classical or name in self.derived:
            return False
        if name not in self._constant:
            by_network, _ = self._by_network(self.logits[name])
            self._constant[name] = any(map(is_constant, by_network.values()))
        return self._constant[name]

    def alarms(self) -> list[str]:
        """What is suspect about any configuration, see `alarms_of`."""
        return [
            f"`{name}`: {sentence}" for name in self.logits for sentence in self.alarms_of(name)
        ]

    def alarms_of(self, name: str) -> list[str]:
        """What is suspect about a configuration, see `alarms.alarms`; each fold is of one network.

        Classical classifiers may predict one class by design.
        """
        if name in self.classical:
            return []
        by_network = self._by_network(self.logits[name])
        return alarms(*by_network, batch_norm=name not in self.up_to_date)

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
        """Write a row per image, with a column for each configuration and repeat.

        Logits have `DIGITS` significant digits, here as in memory. Rounding changes no sign, and so
        no accuracy at a probability of 0.5.
        """
        repeats = range(1, len(self.folds) + 1)
        patients = [""] * len(self.labels) if self.patients is None else self.patients.tolist()
        columns = {
            **dict(zip(IMAGE_COLUMNS, (self.origin, self.index, self.labels), strict=True)),
            PATIENT: patients,
            **{f"{FOLD} {number}": self.folds[number - 1] + 1 for number in repeats},
            **{
                f"{name} {number}": [f"{logit:.{DIGITS}g}" for logit in logits[number - 1]]
                for name, logits in self.logits.items()
                for number in repeats
            },
        }
        write_csv(path, list(columns), list(zip(*columns.values(), strict=True)))

    @classmethod
    def read(cls, path: Path) -> OutOfFold:
        """Read what `write` has written.

        Raises:
            InputError: the table is missing, or is not as `write` has written it; the message
                names the line.
        """
        head, rows = read_csv(path, (*IMAGE_COLUMNS, PATIENT, f"{FOLD} 1"))
        return _Table(path, head, rows).out_of_fold()


def _names(
    entries: Mapping[str, Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]
) -> frozenset[str]:
    return frozenset(name for name, entry in entries.items() if holds(entry))


def _has_own_statistics(entry: Mapping[str, Any]) -> bool:
    """Whether batch-norm statistics of a row's networks cannot lag behind their weights."""
    by_recipe = _changes(entry).get("batch_norm") in ("estimated", "frozen")
    return by_recipe or entry["kind"] == ESTIMATED_KIND


def _is_derived(entry: Mapping[str, Any]) -> bool:
    """Whether a row is of weights that another row has as well."""
    of_others = entry["kind"] in (ESTIMATED_KIND, AVERAGE_KIND)
    quantised = str(entry.get("variant", "")).endswith("int8")
    return of_others or quantised or set(_changes(entry)) == {"tta"}


def _changes(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hyperparameters of a row that differ from its recipe's or from those of the base."""
    changes = entry.get("recipe_changes") or entry.get("changes")
    return changes if isinstance(changes, Mapping) else {}


class _Table:
    """The cells of a file that `OutOfFold.write` has written, checked.

    Args:
        path: of the file, for messages.
        head: names of the columns.
        rows: cells of each row, by the number of its line.

    Raises:
        InputError: there is no row, or one has more or fewer cells than the head.
    """

    def __init__(self, path: Path, head: Sequence[str], rows: Mapping[int, list[str]]) -> None:
        self.path, self.lines = path, list(rows)
        for line, row in rows.items():
            if len(row) != len(head):
                raise self.error(line, f"has {len(row)} cells; the first line has {len(head)}")
        if not rows:
            raise InputError(f"'{path}' has no row below its first line")
        self.columns = dict(zip(head, zip(*rows.values(), strict=True), strict=True))

    def error(self, line: int, text: str) -> InputError:
        return InputError(f"'{self.path}', line {line}: {text}")

    def out_of_fold(self) -> OutOfFold:
        """All columns as arrays.

        Raises:
            InputError: a column is missing or a cell cannot be used.
        """
        origin = np.array(self.columns.pop("split"))
        self._check(np.isin(origin, ORIGINS), "split", origin, " or ".join(ORIGINS))
        index = self._numbers("index", integers=True, low=0)
        labels = self._numbers("label", integers=True, low=0, high=1).astype(np.uint8)
        images: dict[tuple[str, int], int] = {}
        for line, image in zip(self.lines, zip(origin, index, strict=True), strict=True):
            if (first := images.setdefault(image, line)) != line:
                text = f"image {image[1]} of {image[0]} is there already, in line {first}"
                raise self.error(line, text)
        patients = np.array(self.columns.pop(PATIENT))
        known = patients != ""
        if known.any():
            self._check(known, PATIENT, patients, "a patient, which other rows have")
        by_name: dict[str, list[str]] = {}
        for column in self.columns:
            name, _, number = column.rpartition(" ")
            names = by_name.setdefault(name, [])
            names.append(column)
            if not name or number != str(len(names)):
                raise InputError(
                    f"'{self.path}': the column '{shown(column)}' is not in its place; wanted are "
                    "a name and 1, the same name and 2, and so on"
                )
        numbers = [self._numbers(name, integers=True, low=1) for name in by_name.pop(FOLD)]
        folds = np.stack(numbers) - 1
        for name, columns in by_name.items():
            if len(columns) != len(folds):
                raise InputError(
                    f"'{self.path}' has {len(columns)} columns of '{shown(name)}' and "
                    f"{len(folds)} of '{FOLD}'"
                )
        logits = {
            name: _as_stored(np.stack([self._numbers(column) for column in columns]))
            for name, columns in by_name.items()
        }
        return OutOfFold(origin, index, labels, patients if known.all() else None, folds, logits)

    def _numbers(
        self, column: str, integers: bool = False, low: float = -np.inf, high: float = np.inf
    ) -> np.ndarray:
        """(N,) numbers of a column, which is taken out of ``columns``."""
        cells = self.columns.pop(column)
        kind = np.int64 if integers else np.float64
        wanted = "an integer" if integers else "a finite number"
        if np.isfinite(low):
            wanted += f" from {low:g}" + (f" to {high:g}" if np.isfinite(high) else " up")
        try:
            values = np.array(cells, kind)
        except (ValueError, OverflowError):
            values = np.array([_number(cell, int if integers else float) for cell in cells])
        with np.errstate(over="ignore"):  # a logit is stored in float32
            finite = np.isfinite(values.astype(np.float32))
        self._check(finite & (values >= low) & (values <= high), column, cells, wanted)
        return values

    def _check(
        self, good: np.ndarray, column: str, cells: Sequence[str] | np.ndarray, wanted: str
    ) -> None:
        """Refuse the first row where ``good`` (N,) is false."""
        if not good.all():
            row = int(np.argmin(good))
            value = f"'{shown(cells[row])}'" if cells[row] else "empty"
            raise self.error(self.lines[row], f"{column} is {value}; wanted is {wanted}")


def _number(cell: str, kind: Callable[[str], float]) -> float:
    """A cell as a number of a kind, NaN where it is none."""
    try:
        return float(kind(cell))
    except (ValueError, OverflowError):
        return float("nan")
