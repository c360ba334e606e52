"""Which images a network was trained or chosen on, so that it is never evaluated on them.

Every checkpoint contains this record. A run that starts from a checkpoint compares the record
with the images that it will be evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from chestlab.data.splits import Split
from chestlab.files.errors import InputError


def record(splits: Iterable[tuple[str, Split]], phantom: bool = False) -> dict[str, Any]:
    """The record of the images that a network was trained or chosen on.

    Args:
        splits: pairs of a split's name in the source and its images.
        phantom: the images are phantoms; equal rows of phantoms and X-rays are different images.

    Returns:
        ``rows``: row numbers by split of the source (ChestMNIST has the same rows at every size);
        ``names``: file names, or None where the source has none; ``phantom``.
    """
    rows: dict[str, list[int]] = {}
    names: list[str] | None = []
    for name, split in splits:
        origins = np.full(len(split), name) if split.origin is None else split.origin
        for origin in np.unique(origins):
            rows.setdefault(str(origin), []).extend(split.index[origins == origin].tolist())
        names = None if names is None or split.names is None else names + split.names.tolist()
    return {"rows": rows, "names": names, "phantom": phantom}


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
    return {"rows": rows, "names": names, "phantom": second["phantom"]}


def overlap(seen: Mapping[str, Any], split: str, images: Split, by_patient: bool) -> int:
    """Number of ``images`` that a network has seen.

    Args:
        seen: made by `record`.
        split: name of the images' split in their source.
        images: to be evaluated on.
        by_patient: an image also counts as seen if another image of its patient was.
    """
    if seen["names"] is not None and images.names is not None:
        names, wanted = np.array(seen["names"], dtype=str), images.names
        if by_patient:
            names, wanted = Split.patients_of(names), Split.patients_of(wanted)
        return int(np.isin(wanted, names).sum())
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
