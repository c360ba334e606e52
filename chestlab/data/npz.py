"""Reading npz files in ChestMNIST's layout: the two-class images, or all of them.

An image is kept when its 14-flag label vector sums to exactly one and the single flag is column 1
(cardiomegaly, class 0) or column 7 (pneumothorax, class 1). The file is read in blocks, so even
the 224-px file (3.9 GB of training images once unpacked) takes little memory. For the 14 findings
every image is kept. What is stored in another form is converted, see `convert`.

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

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np

from chestlab.data.arrays import (
    NpzArray,
    check_same_keys,
    file_sha256,
    held_arrays,
    npz_errors,
    open_npz,
    quoted,
    splits_in,
)
from chestlab.data.convert import ImageForm, Labels, describe, find_forms, read_labels
from chestlab.data.leaks import split_warnings
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import (
    CLASS_COLUMNS,
    CLASS_NAMES,
    SPLITS,
    FindingsData,
    Split,
    TwoClassData,
    nih_patients,
    related_mask,
    two_class_mask,
)
from chestlab.data.value_ranges import DARK
from chestlab.files.errors import InputError


@overload
def filter_npz(
    path: Path, *, related: bool = ..., classes: Sequence[str] | None = ...
) -> TwoClassData: ...
@overload
def filter_npz(
    path: Path, *, findings: Literal[True], classes: Sequence[str] | None = ...
) -> FindingsData: ...
def filter_npz(
    path: Path,
    *,
    findings: bool = False,
    related: bool = False,
    classes: Sequence[str] | None = None,
) -> TwoClassData | FindingsData:
    """Read an npz file in ChestMNIST's layout, or in one that `convert` makes it of.

    Memory: the kept images plus some blocks of 8 MB, whatever the size of the file.

    Args:
        path: the file.
        findings: keep all images with their 14 labels, not only the two-class ones.
        related: keep also the training images that `splits.related_mask` selects.
        classes: the classes that labels 0 and 1 stand for, where a file has one label per image.

    Raises:
        InputError: no sound npz, an array is missing or of wrong type or shape, a label is not 0
            or 1, an image has an empty patient, or a split lacks a class (has no finding that some
            images have and some not).
    """
    with npz_errors(path), open_npz(path) as archive:
        _check_arrays(archive, path)
        wanted = _all if findings else two_class_mask
        named_by = classes or (CLASS_NAMES if findings else None)  # findings need 14 columns anyway
        labels = {name: read_labels(archive, name, wanted, named_by) for name in SPLITS}
        named = all(part.named for part in labels.values())
        if findings and not named:
            raise InputError("there are no 14 label columns, which the findings need")
        for name, part in labels.items():
            _check_classes(name, part.flags, findings)
        forms, doubts = find_forms(archive, {name: len(labels[name].keep) for name in SPLITS})
        splits = {
            name: _read_split(archive, name, forms[name], labels[name], findings) for name in SPLITS
        }
        if related:
            beside = read_labels(archive, "train", related_mask, classes)
            splits["related"] = _read_split(archive, "train", forms["train"], beside)
        splits, unknown = _identify_patients(archive, splits)
        phantom = "phantom.npy" in archive.namelist()
    name = path.name.encode(errors="replace").decode()  # a name that is not UTF-8 cannot be printed
    return (FindingsData if findings else TwoClassData)(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        related=splits.get("related"),
        source=f"{PHANTOM_MARK} ({name})" if phantom else name,
        sha256=file_sha256(path),
        phantom=phantom,
        classes=None if named or classes is None else tuple(classes),
        notes=_notes(labels, forms, classes if named else None),
        warnings=(
            *unknown,
            *doubts,
            *_nearly_black(splits),
            *split_warnings({name: splits[name] for name in SPLITS}),
        ),
    )


def _check_arrays(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a file without a split, and one with names or patients of some splits alone.

    Raises:
        InputError: the message says how to get the split.
    """
    present = splits_in(archive)
    for split in present or SPLITS:
        for key in ("images", "labels"):
            NpzArray(archive, f"{split}_{key}")
    missing = [split for split in SPLITS if split not in present]
    empty = [s for s in present if NpzArray(archive, f"{s}_labels").shape[:1] == (0,)]
    if "train" in missing + empty:
        raise InputError(f"there is no train split to train on; {held_arrays(archive)}")
    if missing or empty:
        lacking = [f"there is no {split} split" for split in missing]
        lacking += [f"the {split} split is empty" for split in empty]
        command = f"python datareader.py split {quoted(path)}"
        for split in SPLITS:
            command += f" --{split} 0.15" if split in missing + empty else ""
        raise InputError(
            f"{' and '.join(lacking)}: '{command}' makes one of training images, by patient where "
            "the patients are known"
        )
    check_same_keys(archive)


def _nearly_black(splits: Mapping[str, Split]) -> list[str]:
    """A warning for each split that was made 8-bit from 0..1, or fewer bits, without scaling."""
    warnings = []
    for name in SPLITS:
        brightest = splits[name].images.max()
        if brightest == 1:
            warnings.append(
                f"{name}_images holds nothing but 0 and 1 of 255: were its values in 0..1 before "
                "they became uint8?"
            )
        elif brightest < DARK:
            warnings.append(f"the brightest pixel of {name}_images has {brightest} of 255")
    return warnings


def _notes(
    labels: Mapping[str, Labels], forms: Mapping[str, ImageForm], unused: Sequence[str] | None
) -> tuple[str, ...]:
    """What was converted, in one sentence, and that ``--classes`` was not needed."""
    converted = {
        "images": describe({split: form.about for split, form in forms.items()}),
        "labels": describe({split: part.about for split, part in labels.items()}),
    }
    texts = [f"{key}: {text}" for key, text in converted.items() if text]
    notes = [f"converted {'; '.join(texts)}"] if texts else []
    if unused is not None:
        notes.append("--classes is not needed: 14 label columns say what each image shows")
    return tuple(notes)


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
        for start, block in NpzArray(archive, f"{split}_names").blocks():
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


def _all(flags: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans that are true."""
    return np.ones(len(flags), bool)


def _check_classes(split: str, flags: np.ndarray, findings: bool) -> None:
    """Refuse a split without one of the classes, or in which no finding varies."""
    if findings:
        if (flags.min(0) == flags.max(0)).all():
            raise InputError(
                f"the {split} split has no finding that some images have and some do not"
            )
        return
    for column, name in zip(CLASS_COLUMNS, CLASS_NAMES, strict=True):
        if not flags[:, column].any():
            raise InputError(f"the {split} split has no image labelled {name} alone")


def _read_split(
    archive: zipfile.ZipFile, split: str, form: ImageForm, labels: Labels, findings: bool = False
) -> Split:
    """The images of a split that are wanted, with their labels (n,), or (n, 14) of findings."""
    keep = labels.keep
    names = None
    if f"{split}_names.npy" in archive.namelist():
        names = NpzArray(archive, f"{split}_names")
        names.check_names(len(keep))
        names = names.read(keep)
    patients = None
    if f"{split}_patients.npy" in archive.namelist():
        patients = NpzArray(archive, f"{split}_patients").read_patients(len(keep), keep)
    images = NpzArray(archive, f"{split}_images").read(keep, form.convert)
    classes = labels.flags if findings else labels.flags[:, CLASS_COLUMNS[1]]
    return Split(images, classes, np.flatnonzero(keep), names, patients=patients)
