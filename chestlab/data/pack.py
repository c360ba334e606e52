"""An npz file of pictures in a folder and a table of their labels."""

from __future__ import annotations

import csv
import difflib
import io
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from chestlab.data.arrays import LONGEST_NAME
from chestlab.data.dividing import divide, label_groups
from chestlab.data.image_files import read_xray
from chestlab.data.splits import CLASS_NAMES, FINDINGS, SPLITS, Split, nih_patients
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError

COLUMNS = ("path", "label", "patient", "split")

# Headings of NIH's Data_Entry_2017.csv.
_NIH_COLUMNS = {"image index": "path", "finding labels": "label", "patient id": "patient"}

_NONE = "no finding"

_NORMAL = ("normal", "none", "healthy", "no findings")  # others' names of it

_SPLIT_WORDS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_SPLIT_WORDS |= {split: split for split in SPLITS}


@dataclass
class Table:
    """The rows of a CSV file that can be used.

    Attributes:
        lines: of each row in the file, for messages.
        paths: as the table gives them, with ``/``.
        flags: (14,) uint8 of each row, `FINDINGS`.
        patients: of each row, or None where the table has no such column.
        splits: of each row, or None where the table has no such column.
        errors: line in the file, and what is wrong with the row.
        total: number of rows.
    """

    lines: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    flags: list[np.ndarray] = field(default_factory=list)
    patients: list[str] | None = None
    splits: list[str] | None = None
    errors: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0


def read_table(path: Path) -> Table:
    """Read a CSV file with the columns ``path,label[,patient,split]``.

    Columns stand in any order, others are ignored, and the headings of NIH's Data_Entry_2017.csv
    are known. Fields are divided by commas, semicolons or tabs.

    Raises:
        InputError: the file or its header cannot be used. What is wrong with a row is in
            `Table.errors`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"'{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is no CSV file in UTF-8: save it as that") from None
    delimiter = _delimiter(text.partition("\n")[0])
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    table, columns, width, seen = Table(), {}, 0, {}
    try:
        for row in reader:
            if not columns:
                columns, width = _columns(path, row), len(row)
                table.patients = [] if "patient" in columns else None
                table.splits = [] if "split" in columns else None
            elif any(row):
                table.total += 1
                try:
                    _add_row(table, reader.line_num, _fields(row, columns, width), seen)
                except InputError as error:
                    table.errors.append((reader.line_num, str(error)))
    except csv.Error as error:
        raise InputError(f"'{path}', line {reader.line_num}: no CSV ({error})") from None
    if not table.total:
        raise InputError(f"'{path}' has no row below its header")
    return table


def _delimiter(header: str) -> str:
    """What divides a header into the most known columns; of equals, what is there most often."""

    def columns(delimiter: str) -> tuple[int, int]:
        headings = [heading.strip(' "') for heading in header.split(delimiter)]
        return sum(_column(heading) in COLUMNS for heading in headings), len(headings)

    return max(",;\t", key=columns)


def _column(heading: str) -> str:
    name = heading.strip().lower().replace("_", " ")
    return _NIH_COLUMNS.get(name, name)


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """Number of each known column."""
    columns = {}
    for number, name in enumerate(map(_column, header)):
        if name in COLUMNS and name in columns:
            raise InputError(f"'{path}': two columns are called '{name}'")
        if name in COLUMNS:
            columns[name] = number
    lacking = [name for name in COLUMNS[:2] if name not in columns]
    if lacking:
        raise InputError(
            f"'{path}': there is no column {' and no '.join(lacking)} among "
            f"{', '.join(map(ascii, header[:8]))}; the first line must be "
            "path,label[,patient,split], with commas, semicolons or tabs between"
        )
    return columns


def _fields(row: list[str], columns: Mapping[str, int], width: int) -> dict[str, str]:
    """The known columns of a row, in a table whose header has ``width`` fields.

    Raises:
        InputError: it has too few fields, or too many that are not empty.
    """
    if len(row) <= max(columns.values()):
        raise InputError(f"has {len(row)} fields; the header has more")
    if any(text.strip() for text in row[width:]):
        raise InputError(
            f"has {len(row)} fields; the header has {width}: several findings have | between, and "
            "a text that holds the separator has quotes"
        )
    return {name: row[number].strip() for name, number in columns.items()}


def _add_row(table: Table, line: int, fields: Mapping[str, str], seen: dict[str, int]) -> None:
    """Take in a row of the table.

    Raises:
        InputError: it cannot be used.
    """
    for name, value in fields.items():
        if not value:
            raise InputError(f"has no {name}")
    path = fields["path"].replace("\\", "/")
    if len(path) > LONGEST_NAME or len(fields.get("patient", "")) > LONGEST_NAME:
        raise InputError(f"has a path or patient of more than {LONGEST_NAME} characters")
    flags = _flags(fields["label"])
    split = _SPLIT_WORDS.get(fields.get("split", "train").lower())
    if split is None:
        raise InputError(f"split '{fields['split']}': allowed are {', '.join(SPLITS)}")
    place = posixpath.normpath(path)
    if place in seen:
        raise InputError(f"'{path}' stands in line {seen[place]}, too")
    seen[place] = line
    table.lines.append(line)
    table.paths.append(path)
    table.flags.append(flags)
    if table.patients is not None:
        table.patients.append(fields["patient"])
    if table.splits is not None:
        table.splits.append(split)


def _flags(label: str) -> np.ndarray:
    """Findings as NIH writes them, ``Cardiomegaly|Effusion`` or ``No Finding``, to flags (14,)."""
    flags = np.zeros(len(FINDINGS), np.uint8)
    names = [" ".join(name.lower().replace("_", " ").split()) for name in label.split("|")]
    if names == [_NONE]:
        return flags
    for name in names:
        if name == _NONE:
            raise InputError(f"label '{label}': No Finding stands beside a finding")
        if name not in FINDINGS:
            raise InputError(f"label '{label}': {_hint(name)}")
        flags[FINDINGS.index(name)] = 1
    return flags


def _hint(name: str) -> str:
    """What may stand instead of a label that is no finding."""
    if name in _NORMAL:
        return "did you mean No Finding?"
    if re.split(r"[;,/+&]", name)[0].strip() in FINDINGS:
        return "several findings have | between"
    if name in ("0", "1"):
        return f"wanted are names, as {CLASS_NAMES[0]} and {CLASS_NAMES[1]}"
    close = difflib.get_close_matches(name, FINDINGS, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"allowed are {', '.join(FINDINGS)}, several with | between, and No Finding"


@dataclass
class Packed:
    """What became of the rows of a table.

    Attributes:
        arrays: of the npz file.
        errors: line of the table and what is wrong, in order.
        doubts: line of the table and what may make the image useless, in order.
        windows: how often which values became black and white.
        total: number of rows.
    """

    arrays: dict[str, np.ndarray]
    errors: list[tuple[int, str]]
    doubts: list[tuple[int, str]]
    windows: Counter[str]
    total: int

    def splits(self) -> dict[str, Split]:
        """The images by split, with labels (N, 14), and patients where those of all are known."""
        present = [split for split in SPLITS if f"{split}_images" in self.arrays]
        names = [self.arrays[f"{split}_names"] for split in present]
        nih = nih_patients(np.concatenate(names)) is not None
        splits = {}
        for split in present:
            keys = ("images", "labels", "names")
            images, labels, of_split = (self.arrays[f"{split}_{key}"] for key in keys)
            patients = self.arrays.get(f"{split}_patients", nih_patients(of_split) if nih else None)
            index = np.arange(len(labels))
            splits[split] = Split(images, labels, index, of_split, patients=patients)
        return splits


def pack(
    folder: Path, table: Table, size: int, shares: Mapping[str, float], seed: int = 0
) -> Packed:
    """Read the pictures of a table, and divide them into splits.

    Memory: all images at ``size``.

    Args:
        folder: that the table's paths are relative to.
        table: of `read_table`.
        size: side of the images in pixels, 16 to 1024.
        shares: of the images, by split, where the table has no column of splits. Patients stay
            together where the table names them or all files have NIH's names.
        seed: of the drawing.

    Raises:
        InputError: no picture can be read, or too few for the shares.
    """
    errors, doubts, windows = list(table.errors), [], Counter()
    rows, images = [], []
    listed = list(zip(table.lines, table.paths, strict=True))
    for row, (line, path) in enumerate(tqdm(listed, unit=" images", disable=None, leave=False)):
        try:
            xray = read_xray(folder / path, size)
        except InputError as error:
            errors.append((line, f"'{folder / path}' {error}"))
            continue
        rows.append(row)
        images.append(xray.seen)
        doubts += [(line, f"'{path}' {text}") for text in xray.warnings]
        if xray.window.reason:
            windows[f"{xray.window} ({xray.window.reason})"] += 1
    packed = Packed({}, sorted(errors), doubts, windows, table.total)
    if not rows:
        return packed
    names = np.array([table.paths[row] for row in rows])
    columns = {"images": np.stack(images), "labels": np.stack([table.flags[r] for r in rows])}
    columns["names"] = names
    if table.patients is not None:
        columns["patients"] = np.array([table.patients[row] for row in rows])
    if table.splits is not None:
        splits = np.array([table.splits[row] for row in rows])
        chosen = {split: splits == split for split in SPLITS}
    else:
        patients = columns.get("patients", nih_patients(names))
        chosen = divide(label_groups(columns["labels"]), patients, shares, seed)
    for split in SPLITS:
        if chosen[split].any():
            packed.arrays |= {f"{split}_{k}": v[chosen[split]] for k, v in columns.items()}
    return packed


def write_packed(packed: Packed, out: Path) -> None:
    """Write the arrays of `pack` as an npz file, whole or not at all."""
    arrays: dict[str, Any] = packed.arrays
    atomic_write(out, lambda file: np.savez_compressed(file, **arrays))
