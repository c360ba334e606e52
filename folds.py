"""Cross-validation folds: every image is held out once, patients are never torn apart."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from datareader import Split, TwoClassData
from storage import InputError

FOLDS_SEED = 42  # of the assignment, the same for every network, so that they can be compared


def make_folds(data: TwoClassData, k: int, over: str) -> list[TwoClassData]:
    """Split the images k ways, stratified by class and grouped by patient.

    Over ``train`` the official val images go on choosing the epoch, so nothing at all is chosen
    on the fold that is held out. Over ``train+val`` there are no other images left to choose the
    epoch on: the held-out fold does it, and figures on it are as selected.

    Args:
        data: its train (and val) images are divided; test stays as it is.
        k: number of folds, at least 2.
        over: ``train`` or ``train+val``.

    Returns:
        k data sets whose ``train`` is k - 1 parts. The other one is ``held_out``, or ``val``
        over ``train+val``.

    Raises:
        InputError: a class has too few patients (or images) for k folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    pool = data.train if over == "train" else join((data.train, data.val), ("train", "val"))
    if pool.patients is None:
        print(
            "WARNING: the source names no patients: images of one patient may be in several folds",
            file=sys.stderr,
        )
        groups, unit, splitter = None, "images", StratifiedKFold
    else:
        groups, unit, splitter = pool.patients, "patients", StratifiedGroupKFold
    units = np.arange(len(pool)) if groups is None else groups
    fewest = min(len(np.unique(units[pool.labels == label])) for label in (0, 1))
    if k > fewest:
        raise InputError(f"--folds {k}: the rarer class has {unit} for {fewest} folds at most")
    parts = splitter(k, shuffle=True, random_state=FOLDS_SEED).split(
        np.zeros(len(pool)), pool.labels, groups
    )
    folds = []
    for number, (rest, outside) in enumerate(parts, 1):
        train, held_out = pool.take(rest), pool.take(outside)
        if min(len(np.unique(part.labels)) for part in (train, held_out)) < 2:
            raise InputError(f"--folds {k}: a fold lacks one of the classes; take fewer")
        selection = (
            {"val": data.val, "held_out": held_out} if over == "train" else {"val": held_out}
        )
        fold = f"fold {number} of {k} over {over}"
        folds.append(dataclasses.replace(data, train=train, fold=fold, **selection))
    return folds


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
