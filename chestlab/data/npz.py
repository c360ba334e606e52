"""Reading npz files in ChestMNIST's layout: the two-class images, or all of them.

An image is kept when its 14-flag label vector sums to exactly one and the single flag is column 1
(cardiomegaly, class 0) or column 7 (pneumothorax, class 1). The file is read in blocks, so even
the 224-px file (3.9 GB of training images once unpacked) takes little memory. For the 14 findings
every image is kept.

Patients, as text:

1. the arrays ``{split}_patients`` (N,) of text or integers, where the file has them;
2. else NIH's patient numbers, if every name in ``{split}_names`` looks like ``00000013_005.png``,
   whatever folder stands before it;
3. else they are unknown, and `Data.warnings` says so where there are names of another kind.

Names, and patients, are those of all three splits or of none.

ChestMNIST: Yang et al., MedMNIST v2 (https://doi.org/10.1038/s41597-022-01721-8), CC BY 4.0, made
from NIH ChestX-ray14 (Wang et al., CVPR 2017).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, overload

import numpy as np

from chestlab.data.leaks import split_warnings
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import (
    CLASS_COLUMNS,
    CLASS_NAMES,
    FINDINGS,
    SPLITS,
    FindingsData,
    Split,
    TwoClassData,
    nih_patients,
    related_mask,
    two_class_mask,
)
from chestlab.files.errors import InputError

_SMALLEST, _LARGEST = 16, 1024  # image sides in pixels that are accepted

_LONGEST_NAME = 255  # characters of a file name or a patient

_BLOCK_BYTES = 8 << 20

_LARGEST_FORTRAN = 32 << 20  # bytes read at once where rows are not contiguous: 2.4 million labels

_DEFLATE_LIMIT = 1100  # deflate shrinks at most 1032:1; a larger claim is a damaged or hostile file


@overload
def filter_npz(path: Path, *, related: bool = ...) -> TwoClassData: ...
@overload
def filter_npz(path: Path, *, findings: Literal[True]) -> FindingsData: ...
def filter_npz(
    path: Path, *, findings: bool = False, related: bool = False
) -> TwoClassData | FindingsData:
    """Read an npz file in ChestMNIST's layout.

    Memory: the kept images plus one block of 8 MB, whatever the size of the file.

    Args:
        path: the file.
        findings: keep all images with their 14 labels, not only the two-class ones.
        related: keep also the training images that `splits.related_mask` selects.

    Raises:
        InputError: no sound npz, an array is missing or of wrong type or shape, a label is not 0
            or 1, an image has an empty patient, or a split lacks a class (has no finding that some
            images have and some not).
    """
    try:
        with _open_npz(path) as archive:
            splits = {name: _filter_split(archive, name, findings) for name in SPLITS}
            if related:
                splits["related"] = _filter_split(archive, "train", related=True)
            splits, unknown = _identify_patients(archive, splits)
            phantom = "phantom.npy" in archive.namelist()
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    except PermissionError:
        raise InputError(f"'{path}': no permission to read it") from None
    except Exception as error:  # damaged zips raise nearly any type, from KeyError to zlib.error
        reason = f"{type(error).__name__} {' '.join(str(error).split())}".strip()[:200]
        raise InputError(
            f"'{path}' is not a sound npz file ({reason}); delete it and fetch or copy it again"
        ) from None
    sizes = {name: splits[name].images.shape[1] for name in SPLITS}
    if len(set(sizes.values())) > 1:
        raise InputError(f"'{path}': the splits differ in image size: {sizes}")
    name = path.name.encode(errors="replace").decode()  # a name that is not UTF-8 cannot be printed
    return (FindingsData if findings else TwoClassData)(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        related=splits.get("related"),
        source=f"{PHANTOM_MARK} ({name})" if phantom else name,
        sha256=file_sha256(path),
        phantom=phantom,
        warnings=(*unknown, *split_warnings({name: splits[name] for name in SPLITS})),
    )


def _identify_patients(
    archive: zipfile.ZipFile, splits: dict[str, Split]
) -> tuple[dict[str, Split], list[str]]:
    """The splits with NIH's patients, where all names of the file are NIH's.

    Patients that the file gives itself stay as they are.

    Returns:
        the splits, and a warning if there are names that do not tell the patients.
    """
    train = splits["train"]
    if train.patients is not None or train.names is None:
        return splits, []
    for split in SPLITS:
        for start, block in _Array(archive, f"{split}_names").blocks():
            if nih_patients(block) is None:
                row = next(i for i in range(len(block)) if nih_patients(block[i : i + 1]) is None)
                return splits, [
                    f"patients are unknown: {split}_names[{start + row}] is "
                    f"{block[row].item()!a}, not like NIH's 00000013_005.png, and there is no "
                    f"{split}_patients; intervals resample images, and images of one patient may "
                    "be in several folds"
                ]
    identified = {
        name: split
        if split.names is None
        else dataclasses.replace(split, patients=nih_patients(split.names))
        for name, split in splits.items()
    }
    return identified, []


def _filter_split(
    archive: zipfile.ZipFile, split: str, findings: bool = False, related: bool = False
) -> Split:
    wanted = related_mask if related else two_class_mask
    images, labels = _Array(archive, f"{split}_images"), _Array(archive, f"{split}_labels")
    n = labels.shape[0] if labels.shape else 0
    labels.check(
        labels.dtype == np.uint8 and labels.shape == (n, len(FINDINGS)),
        f"uint8 (N, {len(FINDINGS)})",
    )
    images.check_images(n)

    keep, flags = [np.zeros(0, bool)], [np.zeros((0, len(FINDINGS)), np.uint8)]
    for _, block in labels.blocks():
        if block.max() > 1:
            raise InputError(f"{split}_labels holds {block.max()}; allowed are 0 and 1")
        keep.append(np.ones(len(block), bool) if findings else wanted(block))
        flags.append(block[keep[-1]])
    keep, flags = np.concatenate(keep), np.concatenate(flags)
    classes = flags if findings else flags[:, CLASS_COLUMNS[1]]
    if findings and (classes.min(0, initial=1) == classes.max(0, initial=0)).all():
        raise InputError(f"the {split} split has no finding that some images have and some do not")
    for k, name in enumerate(CLASS_NAMES):
        if not findings and not related and not (classes == k).any():
            raise InputError(f"the {split} split has no image labelled {name} alone")

    names = None
    if f"{split}_names.npy" in archive.namelist():
        names = _Array(archive, f"{split}_names")
        names.check_names(n)
        names = names.read(keep)
    patients = None
    if f"{split}_patients.npy" in archive.namelist():
        patients = _Array(archive, f"{split}_patients").read_patients(n, keep)
    index = np.flatnonzero(keep)
    return Split(images.read(keep), classes, index, names, patients=patients)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an npz file after checking its directory, where damage could hide optional arrays."""
    # A member that is still open would keep the file open on its own, and with it an exception that
    # a notebook remembers; Windows then lets nobody replace or delete the file.
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            archive.open(member).close()  # raises if the directory's name is not the member's own
        for key in ("names", "patients"):
            present = [split for split in SPLITS if f"{split}_{key}.npy" in archive.namelist()]
            if 0 < len(present) < len(SPLITS):
                raise InputError(f"of {key} there are only those of {', '.join(present)}")
        yield archive


class _Array:
    """One array of an npz file, read in blocks of rows.

    No memory of the size in the array's header is allocated before that size was compared with
    the zip's directory and with what deflate can compress.

    Raises:
        InputError: the sizes disagree, or the array holds Python objects.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise InputError(f"there is no array '{name}'")
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"'{name}' is compressed as numpy does not: its size has no limit")
        self.name, self._stream = name, archive.open(member)
        if np.lib.format.read_magic(self._stream) != (1, 0):  # later ones claim headers of 4 GB
            raise InputError(f"'{name}' is not in version 1.0 of the npy format")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers from Python 2: they are read all the same
            header = np.lib.format.read_array_header_1_0(self._stream)
        self.shape, fortran, self.dtype = header
        if self.dtype.hasobject:
            raise InputError(f"'{name}' holds Python objects; they are not read, for safety")
        self._fortran = fortran and len(self.shape) > 1  # as a table from pandas often is
        if self._fortran and info.file_size > _LARGEST_FORTRAN:
            raise InputError(f"'{name}' is in Fortran order and too large to be turned to C order")
        claimed = math.prod(self.shape) * self.dtype.itemsize  # of Python integers: no wrap-around
        if min(self.shape, default=0) < 0 or self._stream.tell() + claimed != info.file_size:
            raise InputError(
                f"'{name}' claims the shape {self.shape}, which is not what the file holds"
            )
        if info.file_size > info.compress_size * _DEFLATE_LIMIT:
            raise InputError(f"'{name}' claims more data than the file can hold")

    def check(self, good: bool, wanted: str) -> None:
        if not good:
            raise InputError(f"{self.name} is {self.dtype} {self.shape}; wanted is {wanted}")

    def check_images(self, n: int) -> None:
        side = self.shape[-1] if self.shape else 0
        good = self.dtype == np.uint8 and self.shape == (n, side, side)
        self.check(good, f"uint8 ({n}, S, S), as there are {n} labels")
        if not _SMALLEST <= side <= _LARGEST:
            raise InputError(
                f"{self.name} is {side} px wide; allowed are {_SMALLEST} to {_LARGEST}"
            )

    def check_names(self, n: int) -> None:
        good = self.dtype.kind == "U" and 0 < self.dtype.itemsize <= 4 * _LONGEST_NAME
        wanted = f"text of at most {_LONGEST_NAME} characters ({n},), as there are {n} labels"
        self.check(good and self.shape == (n,), wanted)

    def read_patients(self, n: int, keep: np.ndarray | None = None) -> np.ndarray:
        """Patients as text, of the rows where ``keep`` (N,) is true, or of all N = ``n``.

        Raises:
            InputError: neither text nor integers, or an entry is empty.
        """
        text = self.dtype.kind == "U" and 0 < self.dtype.itemsize <= 4 * _LONGEST_NAME
        wanted = f"integers or text of at most {_LONGEST_NAME} characters ({n},), as there are {n}"
        good = (text or self.dtype.kind in "iu") and self.shape == (n,)
        self.check(good, f"{wanted} labels")
        patients = self.read(keep).astype(str)
        empty = sum(not patient.strip() for patient in patients.tolist())
        if empty:
            raise InputError(f"{self.name} has no patient for {empty} of {len(patients)} images")
        return patients

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row number and rows of each block; the caller may stop early."""
        n, row_bytes = self.shape[0], math.prod(self.shape[1:]) * self.dtype.itemsize
        per_block = max(1, n if self._fortran else _BLOCK_BYTES // row_bytes)
        for start in range(0, n, per_block):
            wanted = min(per_block, n - start) * row_bytes
            content = self._stream.read(wanted)
            if len(content) != wanted:
                raise EOFError("the file ends early")
            block = np.frombuffer(content, self.dtype)
            shape = (len(block) * self.dtype.itemsize // row_bytes, *self.shape[1:])
            yield start, block.reshape(shape, order="F" if self._fortran else "C")
        self._stream.read(1)  # reaching the end makes zipfile compare the checksum

    def read(self, keep: np.ndarray | None = None) -> np.ndarray:
        """The rows where ``keep`` (N,) is true, or all."""
        count = self.shape[0] if keep is None else int(keep.sum())
        rows = np.empty((count, *self.shape[1:]), self.dtype)
        filled = 0
        for start, block in self.blocks():
            chosen = block if keep is None else block[keep[start : start + len(block)]]
            rows[filled : filled + len(chosen)] = chosen
            filled += len(chosen)
        return rows


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
