"""Cross-validation folds: every image is held out once, patients are never torn apart."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from datareader import Split, TwoClassData
from storage import InputError

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
