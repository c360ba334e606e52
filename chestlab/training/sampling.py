"""Which images a network is trained on, beyond those of the two classes alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from chestlab.data.folds import join
from chestlab.data.splits import Split, TwoClassData
from chestlab.files.errors import InputError
from chestlab.training.recipe import Recipe

SMOTE_NEIGHBOURS = 5


def training_split(data: TwoClassData, recipe: Recipe) -> Split:
    """The training images of a run: those of ``data.train`` and what the recipe adds to them.

    ``recipe.related`` adds the official training images that show exactly one of the two classes
    beside other findings, without those of patients who are in val, in the held-out fold or in
    test. ``recipe.smote`` then fills up the smaller class with synthetic images.

    Raises:
        InputError: SMOTE is asked for and imbalanced-learn is not installed.
    """
    train = data.train
    if recipe.related:
        train = join((train, related_images(data)))
    if recipe.smote:
        train = _with_smote(train, recipe.seed)
    return train


def related_images(data: TwoClassData) -> Split:
    """``data.related`` without any image of a patient whom the network is evaluated on.

    Raises:
        ValueError: ``data`` were loaded without these images.
    """
    related = data.related
    if related is None:
        raise ValueError("the data were loaded without the related images")
    if data.train.origin is not None:
        related = dataclasses.replace(related, origin=np.full(len(related), "train"))
    if related.patients is None:
        return related
    evaluated = [data.val, data.test, *([data.held_out] if data.held_out is not None else [])]
    shared = [related.shares_patients(split) for split in evaluated]
    return related.take(~np.any(shared, axis=0))


def _with_smote(train: Split, seed: int) -> Split:
    """As many images of either class (Chawla et al., https://doi.org/10.1613/jair.953).

    A synthetic image lies on the line between an image of the smaller class and one of its
    nearest neighbours: on pixels, a double exposure of two patients.
    """
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError:
        raise InputError(
            "--smote: imbalanced-learn is not installed (pip install imbalanced-learn)"
        ) from None
    n, side = len(train), train.images.shape[1]
    neighbours = min(SMOTE_NEIGHBOURS, int(np.bincount(train.labels).min()) - 1)
    resampled = SMOTE(k_neighbors=neighbours, random_state=seed).fit_resample(
        train.images.reshape(n, -1).astype(np.float32), train.labels
    )
    pixels, labels = np.asarray(resampled[0]), np.asarray(resampled[1])
    images = pixels.round().clip(0, 255).astype(np.uint8).reshape(-1, side, side)
    more = len(labels) - n
    return Split(
        images,
        labels.astype(np.uint8),
        np.concatenate([train.index, np.full(more, -1)]),
        None if train.names is None else np.concatenate([train.names, np.full(more, "")]),
        None if train.origin is None else np.concatenate([train.origin, np.full(more, "SMOTE")]),
        None if train.patients is None else np.concatenate([train.patients, np.full(more, "")]),
    )
