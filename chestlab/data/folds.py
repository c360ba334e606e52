"""Cross-validation folds: every image is held out once, all images of a patient together."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chestlab.data.splits import Split, TwoClassData
from chestlab.files.errors import InputError

# Seeds of the assignment to folds, the same for every network, so that they can be compared.
FOLDS_SEED = 42  # of the choice folds' first repeat: recipes are chosen on them
FRESH_FOLDS_SEED = 7001  # of the fresh folds' first repeat: on them nothing is chosen, ever


def make_folds(data: TwoClassData, k: int, over: str, seed: int = FOLDS_SEED) -> list[TwoClassData]:
    """Split the images into k folds, stratified by class and grouped by patient.

    Over ``train`` the epoch is chosen on the official val images, so nothing is chosen on the
    held-out fold. Over ``train+val`` the epoch is chosen on the held-out fold, because no other
    images are left: its figures are as selected.

    Args:
        data: its train (and val) images are divided; test stays as it is.
        k: number of folds, at least 2.
        over: ``train`` or ``train+val``.
        seed: of the assignment.

    Returns:
        k data sets. ``train`` is k - 1 folds; the other one is ``held_out``, or over ``train+val``
        it is ``val``.

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
    """Rows outside and inside of each of k folds; see `make_folds`.

    Raises:
        InputError: a class has too few patients (or images) for k folds.
    """
    unit = "images" if split.patients is None else "patients"
    fewest = fewest_units(split)
    if k > fewest:
        raise InputError(f"--folds {k}: the rarer class has {unit} for {fewest} folds at most")
    if split.patients is None:
        from sklearn.model_selection import StratifiedKFold

        splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
        folds = list(splitter.split(np.zeros(len(split)), split.labels))
    else:
        number = folds_of_groups(split.labels, split.patients, k, seed)
        folds = [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in range(k)]
    if any(len(np.unique(split.labels[rows])) < 2 for fold in folds for rows in fold):
        raise InputError(f"--folds {k}: a fold lacks one of the classes; take fewer")
    return folds


def folds_of_groups(labels: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Fold (N,) of each image, from 0: groups stay together, and classes have even shares.

    Groups come in random order, those with the most uneven classes first, and each goes to the fold
    in which the classes' shares of all folds stay the most even; of equal ones, to the one with the
    fewest images. These are the folds of scikit-learn 1.8's `StratifiedGroupKFold`. That of older
    versions mixes up the groups' classes: its folds of the NIH subset are not even, and others.

    Args:
        labels: (N,) of each image's class.
        groups: (N,) patient of each image.
        k: number of folds.
        seed: of the random order.
    """
    _, classes, total = np.unique(labels, return_inverse=True, return_counts=True)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(total)))
    np.add.at(counts, (group, classes), 1)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    order = order[np.argsort(-counts[order].std(axis=1), kind="stable")]
    of_fold, chosen = np.zeros((k, len(total))), np.empty(len(names), np.int64)
    for number in order:
        best, lowest, fewest = 0, np.inf, np.inf
        for fold in range(k):
            with_group = of_fold.copy()
            with_group[fold] += counts[number]
            uneven, images = float((with_group / total).std(axis=0).mean()), of_fold[fold].sum()
            if uneven < lowest or (np.isclose(uneven, lowest) and images < fewest):
                best, lowest, fewest = fold, uneven, images
        of_fold[best] += counts[number]
        chosen[number] = best
    return chosen[group]


def fewest_units(split: Split) -> int:
    """Number of patients (of images, where patients are unknown) of the class that has fewer."""
    units = np.arange(len(split)) if split.patients is None else split.patients
    return min(len(np.unique(units[split.labels == label])) for label in (0, 1))


def warn_without_patients(split: Split) -> None:
    """Print a warning where images of one patient cannot be kept together."""
    if split.patients is None:
        print(
            "WARNING: patients are unknown: images of one patient may be in several folds, "
            "and among those that --related on and pre-training add",
            file=sys.stderr,
        )


def train_and_val(data: TwoClassData) -> Split:
    """All images but those of test."""
    return join((data.train, data.val), ("train", "val"))


def join(splits: Sequence[Split], origins: Sequence[str] | None = None) -> Split:
    """Concatenate splits.

    Args:
        splits: at least one; all with file names or none, and the same for patients.
        origins: name of each in the source, for images of different splits.
    """
    arrays: dict[str, Any] = {}
    for field in dataclasses.fields(Split):
        values = [getattr(split, field.name) for split in splits]
        arrays[field.name] = None if values[0] is None else np.concatenate(values)
    if origins is not None:
        arrays["origin"] = np.repeat(list(origins), [len(split) for split in splits])
    return Split(**arrays)


INNER_FOLDS = 8  # the epoch is chosen on one; officially val is 305 of 2,611 images, 1 in 8.6


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of one repeat.

    Attributes:
        share: of the patients outside of the fold, used for training.
        train: images to train on.
        val: images to choose the epoch on, or None.
        held_out: the n images of the fold, to evaluate on, in the order of ``rows``.
        rows: (n,) int, their rows in `CrossValidationSplits.pool`.
    """

    share: float
    train: Split
    val: Split | None
    held_out: Split
    rows: np.ndarray


class CrossValidationSplits:
    """Repeated k-fold splits of train and val: which image is in which fold of which repeat.

    Args:
        data: its train and val images are divided; test is not read.
        folds: number of folds, at least 2.
        repeats: number of repeats, each with another assignment of images to folds.
        first_seed: of the assignment in the first repeat; it grows by 1 with each repeat.

    Attributes:
        pool: the N images of train and val.
        assignment: (repeats, N) int, number of each image's fold, from 0.

    Raises:
        InputError: a class has too few patients (or images) for so many folds.
    """

    def __init__(
        self, data: TwoClassData, folds: int, repeats: int, first_seed: int = FOLDS_SEED
    ) -> None:
        self.data, self.folds, self.repeats = data, folds, repeats
        self.first_seed = first_seed
        self.pool = train_and_val(data)
        warn_without_patients(self.pool)
        self.assignment = np.zeros((repeats, len(self.pool)), np.int64)
        for repeat in range(repeats):
            for number, (_, outside) in enumerate(fold_rows(self.pool, folds, self.seed(repeat))):
                self.assignment[repeat, outside] = number

    def seed(self, repeat: int) -> int:
        """Seed of a repeat's folds; by default the folds of repeat 0 are those of `make_folds`."""
        return self.first_seed + repeat

    def fold(self, repeat: int, fold: int, *, choosing: bool, share: float = 1.0) -> Fold:
        """The images of one fold and of its training.

        Args:
            repeat: number from 0.
            fold: number from 0.
            choosing: take ``val``, to choose the epoch on, from the images outside of the fold.
            share: of the patients in ``train`` and ``val``; a smaller share is a subset of a
                larger one.

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
    """Rows to train on and rows to choose the epoch on, which contain both classes."""
    for folds in range(min(INNER_FOLDS, fewest_units(split)), 1, -1):
        with contextlib.suppress(InputError):  # with so many folds, one would lack a class
            return fold_rows(split, folds, seed)[0]
    raise InputError("--folds: too few patients of a class are left to choose the epoch on")


def share_rows(split: Split, share: float, seed: int) -> np.ndarray:
    """(N,) booleans: the images of a share of each class's patients, drawn at random.

    With the same seed a smaller share is a subset of a larger one. A patient with images of both
    classes counts to the class of the first image.
    """
    units = np.arange(len(split)) if split.patients is None else split.patients
    names, first = np.unique(units, return_index=True)
    rng = np.random.default_rng(seed)
    chosen = []
    for label in (0, 1):
        order = rng.permutation(names[split.labels[first] == label])
        chosen.append(order[: max(1, round(share * len(order)))])
    return np.isin(units, np.concatenate(chosen))
