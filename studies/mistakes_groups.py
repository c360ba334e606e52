"""Properties of the images that `studies.mistakes` compares its figures by, and NIH's tables."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chestlab.data.splits import CLASS_NAMES, Split, image_keys
from chestlab.files.errors import InputError

BLACK = 16  # of 255; a row or column at the edge without a brighter pixel is border

VIEWS, SEXES = ("PA", "AP"), ("F", "M")

NAME, AGE, SEX, VIEW, FINDINGS, BOX = (
    "Image Index",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "Finding Labels",
    "Finding Label",
)

TABLE_COLUMNS, BOX_COLUMNS = (NAME, AGE, SEX, VIEW), (NAME, BOX)


@dataclass(frozen=True)
class Property:
    """A property of the images, and the groups that it divides them into.

    Attributes:
        key: name in tables.
        values: (N,) numbers, NaN where unknown; larger in later groups. Of the class they are the
            labels themselves.
        groups: name of each group, in order, with the images in it, (N,) booleans. The last is
            compared with the first.
    """

    key: str
    values: np.ndarray
    groups: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tables:
    """What NIH's tables say of the images; each None where the table was not given.

    Attributes:
        views: (N,) `PA` or `AP`.
        sexes: (N,) `F` or `M`.
        ages: (N,) in years.
        findings: (N,) all findings of the image in NIH's table, separated by ``|``, or empty.
        marked: (N,) booleans: a radiologist has drawn a box around the finding that is the label.
    """

    views: np.ndarray | None = None
    sexes: np.ndarray | None = None
    ages: np.ndarray | None = None
    findings: np.ndarray | None = None
    marked: np.ndarray | None = None


def read_tables(images: Split, table: Path | None, boxes: Path | None) -> Tables:
    """What the given tables say of the images.

    Args:
        images: with NIH's file names.
        table: ``Data_Entry_2017.csv`` of any version, also gzipped, or None.
        boxes: ``BBox_List_2017.csv``, also gzipped, or None.

    Raises:
        InputError: the images have no names, a table cannot be read, lacks a column or an image.
    """
    if table is None and boxes is None:
        return Tables()
    if images.names is None:
        raise InputError("--table and --boxes need file names of the images, which --data lacks")
    keys = image_keys(images.names).tolist()
    found = {}
    if table is not None:
        rows = {row[NAME].lower(): row for row in _read(table, TABLE_COLUMNS)}
        missing = [key for key in keys if key not in rows]
        if missing:
            raise InputError(f"'{table}' lacks {len(missing)} of the images, '{missing[0]}' first")
        of_images = [rows[key] for key in keys]
        found = {
            "views": np.array([row[VIEW].strip().upper() for row in of_images]),
            "sexes": np.array([row[SEX].strip().upper() for row in of_images]),
            "ages": np.array([_age(row[AGE], table) for row in of_images]),
            "findings": np.array([row.get(FINDINGS) or "" for row in of_images]),
        }
    if boxes is not None:
        drawn = {(row[NAME].lower(), row[BOX].strip().lower()) for row in _read(boxes, BOX_COLUMNS)}
        labels = [CLASS_NAMES[label] for label in images.labels]
        pairs = zip(keys, labels, strict=True)
        found["marked"] = np.array([pair in drawn for pair in pairs])
    return Tables(**found)


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise InputError(f"'{path}' cannot be read as a table: {reason}") from None
    lacking = [column for column in columns if not rows or rows[0].get(column) is None]
    if lacking:
        raise InputError(f"'{path}' lacks the column '{lacking[0]}'; needed: {', '.join(columns)}")
    return [row for row in rows if all(row[column] is not None for column in columns)]


def _age(text: str, table: Path) -> float:
    """Years; older versions of the table write ``058Y``.

    Raises:
        InputError: it is no number.
    """
    digits = text.strip().upper().removesuffix("Y")
    if not digits.isdecimal():
        raise InputError(f"'{table}': '{text}' is no age in years")
    return float(digits)


def properties(images: Split, tables: Tables) -> list[Property]:
    """All properties that are known, with two groups or more.

    Args:
        images: of train and val, with their ``origin``.
        tables: of `read_tables`.
    """
    pixels = images.images.reshape(len(images), -1).astype(np.float64) / 255
    found = [
        Property(
            "class",
            images.labels.astype(float),
            {name: images.labels == label for label, name in enumerate(CLASS_NAMES)},
        )
    ]
    if images.patients is not None:
        _, place, counts = np.unique(images.patients, return_inverse=True, return_counts=True)
        groups = {"one": counts[place] == 1, "several": counts[place] > 1}
        found.append(Property("images_of_patient", counts[place].astype(float), groups))
    found.append(_quarters("brightness", pixels.mean(1)))
    found.append(_quarters("contrast", pixels.std(1)))
    border = border_shares(images.images)
    found.append(Property("black_border", border, {"none": border == 0, "some": border > 0}))
    found.append(_two("split", images.origin, ("train", "val")))
    if tables.views is not None:
        found.append(_two("view", tables.views, VIEWS))
    if tables.sexes is not None:
        found.append(_two("sex", tables.sexes, SEXES))
    if tables.ages is not None:
        found.append(_quarters("age", tables.ages))
    if tables.marked is not None:
        groups = {"no": ~tables.marked, "yes": tables.marked}
        found.append(Property("marked", tables.marked.astype(float), groups))
    kept = [
        Property(
            p.key, p.values, {name: inside for name, inside in p.groups.items() if any(inside)}
        )
        for p in found
    ]
    return [p for p in kept if len(p.groups) > 1]


def _two(key: str, values: np.ndarray | None, names: tuple[str, str]) -> Property:
    assert values is not None  # of images of two splits
    number = np.select([values == names[0], values == names[1]], [0.0, 1.0], math.nan)
    return Property(key, number, {name: values == name for name in names})


def _quarters(key: str, values: np.ndarray) -> Property:
    """Four groups of about the same number of images; equal values are in one group."""
    place = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values, side="left")
    return Property(key, values, {f"quarter {k + 1}": place == k for k in range(4)})


def border_shares(images: np.ndarray) -> np.ndarray:
    """(N,) share of each image (N, S, S) uint8 outside the rectangle around all bright pixels."""
    bright = images > BLACK
    shares = []
    for picture in bright:
        rows, columns = (np.flatnonzero(picture.any(axis)) for axis in (1, 0))
        height, width = (np.ptp(side) + 1 if len(side) else 0 for side in (rows, columns))
        shares.append(1 - height * width / picture.size)
    return np.array(shares, dtype=float)
