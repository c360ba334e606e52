"""Which images a network was trained or chosen on, so that it is never evaluated on them.

Every checkpoint contains this record. A run that starts from a checkpoint compares the record
with the images that it will be evaluated on.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from chestlab.data.splits import SPLITS, Split, image_keys, nih_patients
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

    Returns:
        As `record`, of the kind of ``second``; ``other_kind``: the record of the other kind, where
        there is one, see `of_kind`.
    """
    if first is None:
        return dict(second)
    of_first = of_kind(first, second["phantom"])
    both = dict(second) if of_first is None else _union_of_kind(of_first, second)
    if other := of_kind(first, not second["phantom"]):
        both["other_kind"] = {key: value for key, value in other.items() if key != "other_kind"}
    return both


def of_kind(seen: Mapping[str, Any], phantom: bool) -> Mapping[str, Any] | None:
    """What a record tells of phantoms, or of X-rays; None where it tells nothing of them."""
    return seen if seen["phantom"] == phantom else seen.get("other_kind")


def _union_of_kind(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
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
    overlapping = _overlapping(seen, images, by_patient)
    if overlapping is not None:
        return int(overlapping.sum())
    now = record([(split, images)])["rows"]
    return sum(int(np.isin(rows, seen["rows"].get(name, [])).sum()) for name, rows in now.items())


def _overlapping(seen: Mapping[str, Any], images: Split, by_patient: bool) -> np.ndarray | None:
    """(N,) booleans: the images a network has seen; None where neither names nor patients tell."""
    patients = _patients(seen) if by_patient and images.patients is not None else None
    overlapping = None
    if seen["names"] is not None and images.names is not None:
        names = image_keys(np.array(seen["names"], dtype=str))
        overlapping = np.isin(image_keys(images.names), names)
    if patients is not None and images.patients is not None:
        of_patients = np.isin(images.patients, np.array(patients, dtype=str))
        overlapping = of_patients if overlapping is None else overlapping | of_patients
    return overlapping


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

    Where names or patients are known of one side alone, only row numbers can be compared; if none
    of them meet, a warning says so.

    Args:
        seen: each made by `record` or `union`.
        split: name of the images' split in their source, or what a fold's held-out images are
            called: of those without ``origin`` the split is train.
        images: to be evaluated on.
        phantom: the images are phantoms.
        by_patient: see `overlap`.
        source: of the weights, for the message.

    Raises:
        InputError: there is an overlap.
    """
    for each in seen:
        known = of_kind(each, phantom)
        if known is None:
            continue
        if count := overlap(known, split if split in SPLITS else "train", images, by_patient):
            raise InputError(
                f"--weights '{source}': that network has seen {count} of the {len(images)} "
                f"{split} images it would be judged on; start from one that has not"
            )
        one_named = (known["names"] is None) != (images.names is None)
        if one_named and _overlapping(known, images, by_patient) is None:
            _warn_of_rows(source)


@functools.cache  # said once, however many splits and folds are compared
def _warn_of_rows(source: str) -> None:
    print(
        f"WARNING: --weights '{source}': whether that network has seen images it would be judged "
        "on is unknown, because only its images or only these have file names",
        file=sys.stderr,
        flush=True,
    )
