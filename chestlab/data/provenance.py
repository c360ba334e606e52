"""Which images a network was trained or chosen on, so that it is never evaluated on them.

Every checkpoint contains this record. A run that starts from a checkpoint compares the record
with the images that it will be evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from chestlab.data.splits import Split, image_keys, nih_patients
from chestlab.files.errors import InputError


def record(splits: Iterable[tuple[str, Split]], phantom: bool = False) -> dict[str, Any]:
    """The record of the images that a network was trained or chosen on.

    Args:
        splits: pairs of a split's name in the source and its images.
        phantom: the images are phantoms; equal rows of phantoms and X-rays are different images.

    Returns:
        ``rows``: row numbers by split of the source (ChestMNIST has the same rows at every size);
        ``names``: file names, or None where the source has none; ``patients``: sorted, or None
        where they are unknown; ``phantom``.
    """
    rows: dict[str, list[int]] = {}
    names: list[str] | None = []
    patients: set[str] | None = set()
    for name, split in splits:
        origins = np.full(len(split), name) if split.origin is None else split.origin
        for origin in np.unique(origins):
            rows.setdefault(str(origin), []).extend(split.index[origins == origin].tolist())
        names = None if names is None or split.names is None else names + split.names.tolist()
        if patients is None or split.patients is None:
            patients = None
        else:
            patients = patients.union(split.patients.tolist())
    return {
        "rows": rows,
        "names": names,
        "patients": None if patients is None else sorted(patients),
        "phantom": phantom,
    }


def union(first: Mapping[str, Any] | None, second: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a network whose training started from another network's weights.

    Args:
        first: record of the other network, or None.
        second: record of the training itself.
    """
    if first is None or first["phantom"] != second["phantom"]:
        return dict(second)
    rows = {
        split: sorted({*first["rows"].get(split, ()), *second["rows"].get(split, ())})
        for split in {**first["rows"], **second["rows"]}
    }
    names = None
    if first["names"] is not None and second["names"] is not None:
        names = sorted({*first["names"], *second["names"]})
    of_first, of_second = _patients(first), _patients(second)
    patients = None
    if of_first is not None and of_second is not None:
        patients = sorted({*of_first, *of_second})
    return {
        "rows": rows,
        "names": names,
        "patients": patients,
        "phantom": second["phantom"],
    }


def _patients(seen: Mapping[str, Any]) -> list[str] | None:
    """Patients of a record, or None; a checkpoint of an older version tells them by names alone."""
    if "patients" in seen or seen["names"] is None:
        return seen.get("patients")
    patients = nih_patients(np.array(seen["names"], dtype=str))
    return None if patients is None else sorted(set(patients.tolist()))


def overlap(seen: Mapping[str, Any], split: str, images: Split, by_patient: bool) -> int:
    """Number of ``images`` that a network has seen.

    Args:
        seen: made by `record`.
        split: name of the images' split in their source.
        images: to be evaluated on.
        by_patient: an image also counts as seen if another image of its patient was, provided
            that the patients of both are known.
    """
    patients = _patients(seen) if by_patient and images.patients is not None else None
    overlapping = None
    if seen["names"] is not None and images.names is not None:
        names = image_keys(np.array(seen["names"], dtype=str))
        overlapping = np.isin(image_keys(images.names), names)
    if patients is not None and images.patients is not None:
        of_patients = np.isin(images.patients, np.array(patients, dtype=str))
        overlapping = of_patients if overlapping is None else overlapping | of_patients
    if overlapping is not None:
        return int(overlapping.sum())
    now = record([(split, images)])["rows"]
    return sum(int(np.isin(rows, seen["rows"].get(name, [])).sum()) for name, rows in now.items())


def check_unseen(
    seen: Iterable[Mapping[str, Any]],
    split: str,
    images: Split,
    *,
    phantom: bool,
    by_patient: bool,
    source: str,
) -> None:
    """Refuse weights of a network that has seen the images it will be evaluated on.

    Args:
        seen: each made by `record`.
        split: name of the images' split in their source.
        images: to be evaluated on.
        phantom: the images are phantoms.
        by_patient: see `overlap`.
        source: of the weights, for the message.

    Raises:
        InputError: there is an overlap.
    """
    for known in seen:
        same_kind = known["phantom"] == phantom
        if same_kind and (count := overlap(known, split, images, by_patient)):
            raise InputError(
                f"--weights '{source}': that network has seen {count} of the {len(images)} "
                f"{split} images it would be judged on; start from one that has not"
            )
