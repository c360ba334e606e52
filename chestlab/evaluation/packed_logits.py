"""Logits of many evaluations of few networks, packed into small tables.

`OutOfFold.write` keeps four digits and takes 3 kB for each repeat of a configuration. Here logits
are rounded down to thousandths, which changes no sign and so no accuracy, and the CSV is compressed
with bzip2 (`pandas.read_csv` opens it as it is).
"""

from __future__ import annotations

import bz2
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from chestlab.data.folds import CrossValidationSplits
from chestlab.data.splits import FINDINGS, Split
from chestlab.evaluation.out_of_fold import IMAGE_COLUMNS, OutOfFold
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError

STEPS = 1000  # of a logit between two whole numbers

BETWEEN = " under "  # separates the names of a network and of an evaluation in a column's name

HEAD = (*IMAGE_COLUMNS, "patient", "repeat", "fold")

ByNetwork = Mapping[str, Mapping[str, np.ndarray]]  # logits of each evaluation of each network


def write_packed(path: Path, splits: CrossValidationSplits, logits: ByNetwork) -> None:
    """Write a row per image and repeat, with a column for each evaluation of each network.

    Args:
        path: of the file, ``.csv.bz2``.
        splits: with R repeats over N images.
        logits: by network and evaluation, (R, N); repeats that were not evaluated are NaN.
    """
    pool, text = splits.pool, io.StringIO()
    assert pool.origin is not None  # of images of two splits
    patients = [""] * len(pool) if pool.patients is None else pool.patients
    names = [f"{network}{BETWEEN}{name}" for network, of in logits.items() for name in of]
    values = [of[name] for of in logits.values() for name in of]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEAD, *names])
    for repeat, folds in enumerate(splits.assignment):
        of_repeat = [_cells(rows[repeat]) for rows in values]
        images = zip(pool.origin, pool.index, pool.labels, patients, strict=True)
        for row, image in enumerate(images):
            writer.writerow([*image, repeat + 1, folds[row] + 1, *(c[row] for c in of_repeat)])
    atomic_write(path, bz2.compress(text.getvalue().encode()))


def write_packed_findings(
    path: Path, parts: Iterable[tuple[str, Split, Mapping[str, np.ndarray]]]
) -> None:
    """Write a row per image, with a column for each of the 14 findings of each run.

    Args:
        path: of the file, ``.csv.bz2``.
        parts: name of a split, its N images, and by run the logits (N, 14). Each has the same runs.
            The 14 labels of an image are the digits of one column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (name, split, by_run) in enumerate(parts):
        if not number:
            columns = [f"{run} {finding}" for run in by_run for finding in FINDINGS]
            writer.writerow(["split", "index", "labels", "patient", *columns])
        patients = [""] * len(split) if split.patients is None else split.patients
        labels = ["".join(map(str, row)) for row in split.labels]
        images = zip(split.index, labels, patients, strict=True)
        logits = [_cells(row) for row in np.concatenate(list(by_run.values()), axis=1)]
        for image, cells in zip(images, logits, strict=True):
            writer.writerow([name, *image, *cells])
    atomic_write(path, bz2.compress(text.getvalue().encode()))


def _cells(logits: np.ndarray) -> list[str]:
    """Texts of (N,) logits, empty for NaN."""
    return [f"{value:.3f}" if np.isfinite(value) else "" for value in rounded(logits)]


def rounded(logits: np.ndarray) -> np.ndarray:
    """Logits as the table holds them: down to thousandths, which stay as they are."""
    steps = np.floor(np.asarray(logits, np.float64) * STEPS)
    return np.where((steps + 1) / STEPS <= logits, steps + 1, steps) / STEPS


def read_packed(path: Path) -> dict[str, OutOfFold]:
    """Read what `write_packed` has written: by network its evaluations, on its own repeats.

    Raises:
        InputError: the table is missing or damaged.
    """
    try:
        text = bz2.decompress(path.read_bytes()).decode()
        head, *rows = csv.reader(io.StringIO(text))
        columns = dict(zip(head, np.array(rows).T, strict=True))
        images = [columns.pop(name) for name in HEAD]
        repeats = int(images[4].astype(int).max())
        by_repeat = [values.reshape(repeats, -1) for values in images]
        if not (by_repeat[4].astype(int) == np.arange(1, repeats + 1)[:, None]).all():
            raise ValueError("repeat")
        by_network: dict[str, dict[str, np.ndarray]] = {}
        for column, texts in columns.items():
            network, name = column.split(BETWEEN)
            values = np.array([float(text or "nan") for text in texts]).reshape(repeats, -1)
            by_network.setdefault(network, {})[name] = values
        return {network: _out_of_fold(by_repeat, logits) for network, logits in by_network.items()}
    except (OSError, ValueError, KeyError, IndexError, EOFError, csv.Error):
        raise InputError(
            f"'{path}' is missing, or not a packed table of out-of-fold logits"
        ) from None


def _out_of_fold(images: list[np.ndarray], logits: Mapping[str, np.ndarray]) -> OutOfFold:
    """The evaluations of one network, of the repeats that all of them have.

    Raises:
        ValueError: there is no repeat, or evaluations are of different ones.
    """
    origin, index, labels, patients, _, folds = images
    known = np.isfinite(list(logits.values()))
    evaluated = known.all((0, 2))
    if not evaluated.any() or known.any((0, 2)).sum() != evaluated.sum():
        raise ValueError("repeats")
    return OutOfFold(
        origin[0],
        index[0].astype(np.int64),
        labels[0].astype(np.uint8),
        patients[0] if np.all(patients[0] != "") else None,
        folds[evaluated].astype(np.int64) - 1,
        {name: values[evaluated] for name, values in logits.items()},
    )
