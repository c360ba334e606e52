"""Properties of the images that `studies.mistakes` compares its figures by, and NIH's tables."""

from __future__ import annotations

import gzip
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chestlab.data.splits import CLASS_NAMES, Split, image_keys
from chestlab.files.errors import InputError
from chestlab.files.reading import SEPARATORS, read_csv, shown

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

FORMS = "read are CSV files in UTF-8 with ',', ';' or a tab between the columns, also gzipped"

GZIP = b"\x1f\x8b"  # first bytes


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
        InputError: the images have no names, a table cannot be read, lacks a column or an image,
            or has an image twice with other values.
    """
    if table is None and boxes is None:
        return Tables()
    if images.names is None:
        raise InputError("--table and --boxes need file names of the images, which --data lacks")
    keys = image_keys(images.names).tolist()
    found = {}
    if table is not None:
        of_images = _of_images(keys, table, _read(table, TABLE_COLUMNS))
        rows = of_images.values()
        found = {
            "views": np.array([row[VIEW].strip().upper() for row in rows]),
            "sexes": np.array([row[SEX].strip().upper() for row in rows]),
            "ages": np.array([_age(row[AGE], table, line) for line, row in of_images.items()]),
            "findings": np.array([row.get(FINDINGS) or "" for row in rows]),
        }
    if boxes is not None:
        marked = _read(boxes, BOX_COLUMNS).values()
        drawn = {(row[NAME].strip().lower(), row[BOX].strip().lower()) for row in marked}
        labels = [CLASS_NAMES[label] for label in images.labels]
        pairs = zip(keys, labels, strict=True)
        found["marked"] = np.array([pair in drawn for pair in pairs])
    return Tables(**found)


def _read(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file by the number of their line, without those that lack a needed cell.

    Raises:
        InputError: it cannot be read, lacks a column, or has no row.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        head, rows = read_csv(path, columns, tuple(SEPARATORS), content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise InputError(f"'{path}' cannot be read as a table: {reason}; {FORMS}") from None
    except InputError as error:
        raise InputError(f"{error}; {FORMS}") from None
    needed = 1 + max(head.index(column) for column in columns)
    short = [line for line, row in rows.items() if len(row) < needed]
    if len(short) == len(rows):
        raise InputError(f"'{path}' has no row with {needed} cells below its first line; {FORMS}")
    if short:
        print(
            f"NOTE: '{path}': rows left out, as they have fewer than {needed} cells: {len(short)}, "
            f"the first in line {short[0]}",
            file=sys.stderr,
        )
    whole = {line: row for line, row in rows.items() if len(row) >= needed}
    return {line: dict(zip(head, row, strict=False)) for line, row in whole.items()}


def _of_images(
    keys: Sequence[str], table: Path, rows: Mapping[int, dict[str, str]]
) -> dict[int, dict[str, str]]:
    """The row of each image, by the number of its line, in the order of the images.

    Raises:
        InputError: an image has no row, or several that differ.
    """
    lines: dict[str, int] = {}
    for line, row in rows.items():
        first = lines.setdefault(row[NAME].strip().lower(), line)
        if any(row[column] != rows[first][column] for column in TABLE_COLUMNS[1:]):
            what = f"'{shown(row[NAME])}' is there already in line {first}, with other values"
            raise InputError(f"'{table}', line {line}: {what}")
    missing = [key for key in keys if key not in lines]
    if missing:
        raise InputError(f"'{table}' lacks {len(missing)} of the images, '{missing[0]}' first")
    return {lines[key]: rows[lines[key]] for key in keys}


def _age(text: str, table: Path, line: int) -> float:
    """Years; older versions of the table write ``058Y``.

    Raises:
        InputError: it is no number.
    """
    digits = text.strip().upper().removesuffix("Y")
    if not digits.isdecimal():
        raise InputError(f"'{table}', line {line}: '{shown(text)}' is no age in years")
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
