"""Tables of predicted probabilities, one row per image, and a probability beside the threshold."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from chestlab.data import splits
from chestlab.files.atomic import write_csv
from chestlab.files.errors import InputError

MEMBERS = "member_probabilities.csv"  # of an ensemble or a comparison, see `write_members`


def write_probabilities(path: Path, split: splits.Split, probabilities: np.ndarray) -> None:
    """Write row in the source's split, label and probability, the split too where joined.

    Of findings there are 14 probabilities, and the 14 labels are the digits of one column.
    """
    columns = {} if split.origin is None else {"split": split.origin}
    columns["index"] = split.index
    if split.labels.ndim == 1:
        columns |= {"label": split.labels, "probability": probabilities}
    else:
        columns["labels"] = np.array(["".join(map(str, row)) for row in split.labels])
        columns |= zip(splits.FINDINGS, probabilities.T, strict=True)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_csv(path, list(columns), list(rows))


def read_probabilities(path: Path, split: splits.Split) -> np.ndarray:
    """Probabilities (N,) of exactly these images, from what a member has written.

    Raises:
        InputError: the table is of other images, or not there.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        same = [int(row["index"]) for row in rows] == split.index.tolist()
        values = np.array([float(row["probability"]) for row in rows])
    except (OSError, KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise InputError(
            f"'{path}' is missing, or not the table of this member: remove '{path.parent}', and "
            "it is trained anew"
        )
    return values


class Images(Protocol):
    """Images as a table names them: a split, or what was stored of one."""

    @property
    def origin(self) -> np.ndarray | None: ...
    @property
    def index(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...


def write_members(
    path: Path, parts: Iterable[tuple[str, Images, Mapping[str, np.ndarray]]]
) -> None:
    """Write what several networks predict into one table, a column for each.

    Args:
        path: of the CSV.
        parts: name of a split, images of it (of several splits where ``origin`` says so), and the
            probabilities (N,) of the networks that have predicted them. The cells of the others
            stay empty.
    """
    parts = list(parts)
    names = list(dict.fromkeys(name for _, _, predicted in parts for name in predicted))
    rows = []
    for split, images, predicted in parts:
        origin = [split] * len(images.index) if images.origin is None else images.origin.tolist()
        empty = [""] * len(images.index)
        columns = [predicted[name].tolist() if name in predicted else empty for name in names]
        rows += zip(origin, images.index.tolist(), images.labels.tolist(), *columns, strict=True)
    write_csv(path, ["split", "index", "label", *names], rows)


def read_members(
    path: Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Read what `write_members` has written.

    Returns:
        (N,) split, row there and label of each image, and (N,) probabilities of each network, NaN
        where it has not predicted the image.
    """
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    columns = dict(zip(head, zip(*rows, strict=True), strict=True))
    origin = np.array(columns.pop("split"))
    index, labels = (np.array(columns.pop(name), np.int64) for name in ("index", "label"))
    predicted = {
        name: np.array([float(cell or "nan") for cell in cells]) for name, cells in columns.items()
    }
    return origin, index, labels, predicted


def with_threshold(probability: float, threshold: float, least: int = 2) -> tuple[str, str, str]:
    """A probability as text, its relation to the threshold (``≥`` or ``<``), and the threshold.

    Both have as many decimals, ``least`` or more, as show on which side the probability lies:
    rounded alike, 0.3796 would seem to reach a threshold of 0.38.
    """
    above = probability >= threshold
    for digits in range(least, 18):
        texts = f"{probability:.{digits}f}", f"{threshold:.{digits}f}"
        if (float(texts[0]) >= float(texts[1])) == above:
            break
    return texts[0], "≥" if above else "<", texts[1]
