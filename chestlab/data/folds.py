"""Cross-validation folds: every image is held out once, patients are never torn apart."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chestlab.data.splits import Split, TwoClassData
from chestlab.files.errors import InputError

FOLDS_SEED = 42  # of the assignment, the same for every network, so that they can be compared


def make_folds(data: TwoClassData, k: int, over: str, seed: int = FOLDS_SEED) -> list[TwoClassData]:
    """Split the images k ways, stratified by class and grouped by patient.

    Over ``train`` the official val images go on choosing the epoch, so nothing at all is chosen
    on the fold that is held out. Over ``train+val`` there are no other images left to choose the
    epoch on: the held-out fold does it, and figures on it are as selected.

    Args:
        data: its train (and val) images are divided; test stays as it is.
        k: number of folds, at least 2.
        over: ``train`` or ``train+val``.
        seed: of the assignment.

    Returns:
        k data sets whose ``train`` is k - 1 parts. The other one is ``held_out``, or ``val``
        over ``train+val``.

    Raises:
        InputError: a class has too few patients (or images) for k folds.
    """
    pool = data.train if over == "train" else train_and_val(data)
    warn_without_patients(pool)
    folds = []
    for number, (rest, outside) in enumerate(fold_rows(pool, k, seed), 1):
        train, held_out = pool.take(rest), pool.take(outside)
        selection = (
            {"val": data.val, "held_out": held_out} if over == "train" else {"val": held_out}
        )
        fold = f"fold {number} of {k} over {over}"
        folds.append(dataclasses.replace(data, train=train, fold=fold, **selection))
    return folds


def fold_rows(split: Split, k: int, seed: int = FOLDS_SEED) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the rest and of the fold, k times; see `make_folds`.

    Raises:
        InputError: a class has too few patients (or images) for k folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    grouped = split.patients is not None
    unit = "patients" if grouped else "images"
    fewest = fewest_units(split)
    if k > fewest:
        raise InputError(f"--folds {k}: the rarer class has {unit} for {fewest} folds at most")
    splitter = StratifiedGroupKFold if grouped else StratifiedKFold
    parts = splitter(k, shuffle=True, random_state=seed).split(
        np.zeros(len(split)), split.labels, split.patients
    )
    folds = [(rest, outside) for rest, outside in parts]
    if any(len(np.unique(split.labels[rows])) < 2 for fold in folds for rows in fold):
        raise InputError(f"--folds {k}: a fold lacks one of the classes; take fewer")
    return folds


def fewest_units(split: Split) -> int:
    """Number of patients (of images, where these are not known) of the class that has fewer."""
    units = np.arange(len(split)) if split.patients is None else split.patients
    return min(len(np.unique(units[split.labels == label])) for label in (0, 1))


def warn_without_patients(split: Split) -> None:
    """Say so where images of one patient cannot be kept together."""
    if split.patients is None:
        print(
            "WARNING: the source names no patients: images of one patient may be in several folds, "
            "and among those that --related on adds",
            file=sys.stderr,
        )


def train_and_val(data: TwoClassData) -> Split:
    """All images but those of test."""
    return join((data.train, data.val), ("train", "val"))


def join(parts: Sequence[Split], origins: Sequence[str] | None = None) -> Split:
    """Several splits as one.

    Args:
        parts: at least one; all with file names or none.
        origins: name of each part in the source, for parts of different splits.
    """

    def together(field: str) -> np.ndarray | None:
        values = [getattr(part, field) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    joined = Split(*(together(field.name) for field in dataclasses.fields(Split)))
    if origins is None:
        return joined
    lengths = [len(part) for part in parts]
    return dataclasses.replace(joined, origin=np.repeat(list(origins), lengths))


INNER_PARTS = 8  # one of them chooses the epoch; officially val is 305 of 2,611 images, 1 in 8.6


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of one repeat.

    Attributes:
        share: of the patients that could be trained on.
        train: to train on.
        val: to choose the epoch on, or None.
        held_out: to be judged on, in the order of ``rows``.
        rows: (n,) places of the held-out images among those of the plan.
    """

    share: float
    train: Split
    val: Split | None
    held_out: Split
    rows: np.ndarray


class CrossValidationSplits:
    """Which image is in which fold of which repeat.

    Args:
        data: its train and val images are divided; nothing here reads test.
        folds: number of parts, at least 2.
        repeats: number of divisions.

    Attributes:
        pool: the N images of train and val.
        assignment: (repeats, N) number of each image's fold, from 0.

    Raises:
        InputError: a class has too few patients (or images) for so many folds.
    """

    def __init__(self, data: TwoClassData, folds: int, repeats: int) -> None:
        self.data, self.folds, self.repeats = data, folds, repeats
        self.pool = train_and_val(data)
        warn_without_patients(self.pool)
        self.assignment = np.zeros((repeats, len(self.pool)), np.int64)
        for repeat in range(repeats):
            for number, (_, outside) in enumerate(fold_rows(self.pool, folds, self.seed(repeat))):
                self.assignment[repeat, outside] = number

    @staticmethod
    def seed(repeat: int) -> int:
        """Of a repeat's folds; those of the first are the folds of every other script."""
        return FOLDS_SEED + repeat

    def part(self, repeat: int, fold: int, *, choosing: bool, share: float = 1.0) -> Fold:
        """Divide the images.

        Args:
            repeat, fold: numbers from 0.
            choosing: keep images apart to choose the epoch on.
            share: of the patients to train (and choose) on. A smaller share lies within a larger.

        Raises:
            InputError: too few patients are left to choose the epoch on.
        """
        rows = np.flatnonzero(self.assignment[repeat] == fold)
        train = self.pool.take(np.flatnonzero(self.assignment[repeat] != fold))
        held_out, val, seed = self.pool.take(rows), None, self.seed(repeat)
        if choosing:
            rest, outside = _inner_rows(train, seed)
            train, val = train.take(rest), train.take(outside)
            val = val.take(share_rows(val, share, seed))
        train = train.take(share_rows(train, share, seed))
        return Fold(share, train, val, held_out, rows)


def _inner_rows(split: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to choose the epoch on: fewer parts where one would lack a class."""
    for parts in range(min(INNER_PARTS, fewest_units(split)), 1, -1):
        with contextlib.suppress(InputError):
            return fold_rows(split, parts, seed)[0]
    raise InputError("--folds: too few patients of a class are left to choose the epoch on")


def share_rows(split: Split, share: float, seed: int) -> np.ndarray:
    """(N,) booleans: the images of a share of each class's patients, drawn at random.

    Of the same seed a smaller share lies within a larger one. A patient with images of both
    classes counts as one of the first image's class.
    """
    units = np.arange(len(split)) if split.patients is None else split.patients
    names, first = np.unique(units, return_index=True)
    rng = np.random.default_rng(seed)
    chosen = []
    for label in (0, 1):
        order = rng.permutation(names[split.labels[first] == label])
        chosen.append(order[: max(1, round(share * len(order)))])
    return np.isin(units, np.concatenate(chosen))
