"""Patients, file names and images that are in two splits, so that figures on one are too good."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping

import numpy as np

from chestlab.data.splits import Split, image_keys


def split_warnings(splits: Mapping[str, Split]) -> tuple[str, ...]:
    """What two of the splits share, and splits of a single patient, a sentence each.

    Images count as identical where every pixel is equal. Files that were resized or saved with
    loss anew are not noticed.

    Args:
        splits: by name, in the order train, val, test; all with names or none, and the same for
            patients. Only their own images are compared, not the rest of the source.

    Returns:
        for instance ``train and test share 2 patients (5 and 3 images), 1 file name (1 and 1
        images): figures on test may be too good``; nothing where all is well.
    """
    keys = {name: _keys(split) for name, split in splits.items()}
    warnings = []
    for first, second in itertools.combinations(splits, 2):
        shared = [
            text
            for kind, values in keys[first].items()
            if (text := _shared(kind, values, keys[second][kind]))
        ]
        if shared:
            warnings.append(
                f"{first} and {second} share {', '.join(shared)}: "
                f"figures on {second} may be too good"
            )
    for name, split in splits.items():
        if split.patients is not None and len(split) > 1 and len(np.unique(split.patients)) == 1:
            warnings.append(
                f"all {len(split)} images of {name} are of one patient: intervals of its figures, "
                "which resample patients, have no width"
            )
    return tuple(warnings)


def _keys(split: Split) -> dict[str, np.ndarray]:
    """(N,) texts that are equal where two images have something in common, by its kind."""
    keys = {}
    if split.patients is not None:
        keys["patient"] = split.patients
    if split.names is not None:
        keys["file name"] = image_keys(split.names)
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16) for image in split.images]
    keys["identical image"] = np.array([digest.hexdigest() for digest in digests], dtype=str)
    return keys


def _shared(kind: str, first: np.ndarray, second: np.ndarray) -> str:
    """How many keys are in both arrays, and of how many images of each; empty for none."""
    common = np.intersect1d(first, second)
    if not len(common):
        return ""
    images = [int(np.isin(keys, common).sum()) for keys in (first, second)]
    plural = "" if len(common) == 1 else "s"
    return f"{len(common)} {kind}{plural} ({images[0]} and {images[1]} images)"
