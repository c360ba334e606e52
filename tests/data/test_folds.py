"""Which fold an image is in: the same with every version of every library."""

import csv
from pathlib import Path

import numpy as np
import pytest
import sklearn

from chestlab.data.folds import FOLDS_SEED, FRESH_FOLDS_SEED, folds_of_groups

ROOT = Path(__file__).resolve().parents[2]

PUBLISHED = {  # tables of images and their folds, with the seed of the first repeat
    "time_to_accuracy_chestmnist_nih_subset_28": FOLDS_SEED,
    "fresh_folds_chestmnist_nih_subset_28": FRESH_FOLDS_SEED,
}


@pytest.mark.parametrize("study", PUBLISHED)
def test_folds_are_those_of_the_published_results(study):
    with (ROOT / "results" / "studies" / study / "oof.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    patients = np.array([row["patient"] for row in rows])
    columns = [name for name in rows[0] if name.startswith("fold ")]
    assert columns
    for repeat, column in enumerate(columns):
        folds = folds_of_groups(labels, patients, 5, PUBLISHED[study] + repeat)
        assert (folds + 1).tolist() == [int(row[column]) for row in rows]


def divided(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and groups of some images, and a number of folds."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(40, 200)), int(rng.integers(2, 6))
    return rng.integers(0, 2, n), rng.integers(0, max(k, n // int(rng.integers(1, 6))), n), k


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason="older versions of scikit-learn divide in another way",
)
@pytest.mark.parametrize("seed", range(20))
def test_folds_are_those_of_scikit_learn(seed):
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups, k = divided(seed)
    folds = folds_of_groups(labels, groups, k, seed)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    for number, (_, inside) in enumerate(splitter.split(labels, labels, groups)):
        assert np.flatnonzero(folds == number).tolist() == inside.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_together_and_classes_have_even_shares(seed):
    labels, groups, k = divided(seed)
    folds = folds_of_groups(labels, groups, k, seed)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    largest = np.unique(groups, return_counts=True)[1].max()
    for label in (0, 1):
        counts = np.bincount(folds[labels == label], minlength=k)
        assert np.ptp(counts) <= 2 * largest
    assert (folds != folds_of_groups(labels, groups, k, seed + 100)).any()
