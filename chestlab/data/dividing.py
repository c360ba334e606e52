"""Dividing images into train, val and test, all images of a patient together."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from chestlab.data.arrays import NpzArray, npz_errors, open_npz
from chestlab.data.splits import CLASS_COLUMNS, FINDINGS, SPLITS, nih_patients
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError

_MOST_GROUPS = 100  # of label values that are divided evenly; more are no classes


def divide(
    groups: np.ndarray, patients: np.ndarray | None, shares: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """Divide images into splits that have about the same share of every group.

    Rare groups are divided first, in whole patients drawn at random, each taken if that brings the
    split nearer to its share of the group's images (iterative stratification: Sechidis et al.,
    https://doi.org/10.1007/978-3-642-23808-6_10). Every split gets a patient of each group as far
    as there are enough; the last one stays in train.

    Args:
        groups: (N, K) bool, e.g. the images with each finding; groups may overlap.
        patients: (N,) of each image, or None: every image counts as a patient of its own.
        shares: of all images, by split; train is the rest.
        seed: of the drawing.

    Returns:
        (N,) bool for train and each split of ``shares``.

    Raises:
        InputError: the shares leave nothing for train.
    """
    if not sum(shares.values()) < 1:
        raise InputError(f"the shares {' + '.join(map(str, shares.values()))} leave no train split")
    n = len(groups)
    units = np.arange(n) if patients is None else np.unique(patients, return_inverse=True)[1]
    counts = np.zeros((int(units.max(initial=-1)) + 1, groups.shape[1]), np.int64)
    np.add.at(counts, units, groups.astype(np.int64))
    rng = np.random.default_rng(seed)
    left, splits = np.ones(len(counts), bool), {}
    for split, share in shares.items():
        chosen = _draw(counts, left, share * counts.sum(0), rng)
        left &= ~chosen
        splits[split] = chosen[units]
    return {"train": left[units], **splits}


def _draw(
    counts: np.ndarray, left: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(U,) bool: of the patients that are ``left``, those with about ``wanted`` (K,) images."""
    chosen, decided = np.zeros(len(counts), bool), ~left
    for group in np.argsort(wanted, kind="stable"):
        with_group = left & (counts[:, group] > 0)
        candidates = rng.permutation(np.flatnonzero(with_group & ~decided))
        have, others = int(counts[chosen, group].sum()), int((with_group & ~chosen).sum()) - 1
        for unit in candidates:
            if others > 0 and have + counts[unit, group] / 2 <= wanted[group]:
                chosen[unit] = True
                have, others = have + int(counts[unit, group]), others - 1
        if not have and others > 0 and len(candidates):
            chosen[candidates[counts[candidates, group].argmin()]] = True
        decided[candidates] = True
    return chosen


def label_groups(labels: np.ndarray) -> np.ndarray:
    """(N, K) bool groups of images to divide evenly, by their labels of any form.

    Of 14 columns these are the two classes alone, every finding, and no finding; of other labels
    their values.
    """
    numbers = labels.dtype.kind in "biuf"
    if numbers and labels.ndim == 2 and labels.shape[1] == len(FINDINGS):
        flags = labels == 1
        alone = flags.sum(1) == 1
        classes = [alone & flags[:, column] for column in CLASS_COLUMNS]
        return np.column_stack([*classes, flags, ~flags.any(1)])
    rows = labels.reshape(len(labels), -1)
    values, group = np.unique(rows, axis=0, return_inverse=True)
    if len(values) > _MOST_GROUPS:
        return np.ones((len(labels), 1), bool)
    return group.reshape(-1, 1) == np.arange(len(values))


def split_npz(
    path: Path, out: Path, shares: Mapping[str, float], seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Write a copy of a file in which a part of its training images are val, or test, images.

    Every array ``train_*`` with a row per image is divided, all others are copied as they are.
    Memory: labels, names and patients, and a block of 8 MB.

    Args:
        path: npz file with ``train_images`` and ``train_labels`` of any form.
        out: npz file to write; it is there whole or not at all.
        shares: of the training images, for ``val``, ``test`` or both.
        seed: of the drawing.

    Returns:
        as of `divide`, and the patients (N,) or None where they are unknown.

    Raises:
        InputError: the file cannot be read, or has such a split.
    """
    with npz_errors(path), open_npz(path) as archive:
        for split in shares:
            for key in ("images", "labels"):
                name = f"{split}_{key}"
                if f"{name}.npy" in archive.namelist() and NpzArray(archive, name).shape[:1] != (
                    0,
                ):
                    raise InputError(f"--{split}: the file has a {split} split: {name}")
        images, labels = NpzArray(archive, "train_images"), NpzArray(archive, "train_labels")
        n = labels.shape[0] if labels.shape else 0
        if not n or 0 in labels.shape or images.shape[:1] != (n,):
            raise InputError(f"{images.about} and {labels.about}: not one label for each image")
        patients, groups = _patients(archive, n), label_groups(labels.read())
    rows = divide(groups, patients, shares, seed)
    for split in shares:
        if not rows[split].any():
            raise InputError(f"--{split} {shares[split]}: {n} images are too few for it")
    with npz_errors(path), open_npz(path) as archive:
        atomic_write(out, lambda file: _write_divided(archive, file, rows, n))
    return rows, patients


def _patients(archive: zipfile.ZipFile, n: int) -> np.ndarray | None:
    """Patients (N,) of the training images, as `npz.filter_npz` finds them, or None."""
    members = archive.namelist()
    if "train_patients.npy" in members:
        return NpzArray(archive, "train_patients").read_patients(n)
    if "train_names.npy" not in members:
        return None
    names = NpzArray(archive, "train_names")
    names.check_names(n)
    return nih_patients(names.read())


def _write_divided(
    archive: zipfile.ZipFile, file: IO[bytes], rows: Mapping[str, np.ndarray], n: int
) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as copy:
        for info in archive.infolist():
            split, _, key = info.filename.removesuffix(".npy").partition("_")
            if split in rows and split != "train":
                continue  # of an empty split
            array = NpzArray(archive, f"train_{key}") if split == "train" else None
            if array is None or array.shape[:1] != (n,):
                with archive.open(info) as member, _new_member(copy, info, info.filename) as new:
                    shutil.copyfileobj(member, new)
                continue
            for name in [split for split in SPLITS if split in rows]:
                with _new_member(copy, info, f"{name}_{key}.npy") as new:
                    for content in _npy(NpzArray(archive, array.name), rows[name]):
                        new.write(content)


def _new_member(copy: zipfile.ZipFile, like: zipfile.ZipInfo, name: str) -> IO[bytes]:
    """A member to write; without a time, so that the same division is the same file."""
    info = zipfile.ZipInfo(name)
    info.compress_type = like.compress_type
    return copy.open(info, "w", force_zip64=True)


def _npy(array: NpzArray, keep: np.ndarray) -> Iterator[bytes]:
    """The bytes of an npy file of the rows where ``keep`` (N,) is true."""
    yield array.header((int(keep.sum()), *array.shape[1:]))
    for start, block in array.blocks():
        yield np.ascontiguousarray(block[keep[start : start + len(block)]]).tobytes()
