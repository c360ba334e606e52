"""Loading the images that ``--data`` names: the official file, a file of the user, or phantoms."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np

from chestlab.data.cache import uncached, with_cache
from chestlab.data.phantom import OFFICIAL_COUNTS, PHANTOM_MARK
from chestlab.data.splits import (
    CLASS_COLUMNS,
    CLASS_NAMES,
    OFFICIAL_IMAGES,
    SOURCE_SIZES,
    SPLITS,
    Data,
    FindingsData,
    Split,
    TwoClassData,
    related_mask,
    two_class_mask,
)
from chestlab.files.errors import InputError

# Two-class phantoms that stand in for the official images: few, so that a try is soon done.
STAND_IN = {"train": 256, "val": 80, "test": 80}


@overload
def load(
    data: str = ...,
    root: Path | None = ...,
    source_size: int | None = ...,
    findings: Literal[False] = ...,
    related: bool = ...,
    classes: Sequence[str] | None = ...,
) -> TwoClassData: ...
@overload
def load(
    data: str = ...,
    root: Path | None = ...,
    source_size: int | None = ...,
    *,
    findings: Literal[True],
    related: bool = ...,
    classes: Sequence[str] | None = ...,
) -> FindingsData: ...
@overload
def load(
    data: str = ...,
    root: Path | None = ...,
    source_size: int | None = ...,
    findings: bool = ...,
    related: bool = ...,
    classes: Sequence[str] | None = ...,
) -> TwoClassData | FindingsData: ...
def load(
    data: str = "auto",
    root: Path | None = None,
    source_size: int | None = None,
    findings: bool = False,
    related: bool = False,
    classes: Sequence[str] | None = None,
) -> TwoClassData | FindingsData:
    """Read the source that ``--data`` names: its two-class images, or all of them.

    Args:
        data: ``chestmnist`` (the official file, downloaded if it is not in ``root``), ``phantom``,
            ``auto`` (``chestmnist``, or with a warning ``phantom`` if that fails), or the path of
            an npz file in ChestMNIST's layout.
        root: folder of the official files; None is medmnist's, ``~/.medmnist``.
        source_size: 28 (None), 64, 128 or 224 px; for a file it must be None or the file's own.
        findings: load every image with its 14 labels. Memory: the images plus 8 MB; the images of
            the official 224-px file take 5.6 GB.
        related: load also the training images that show one of the two classes beside other
            findings; they take more than twice the memory of the two-class ones.
        classes: names of `CLASS_NAMES` that labels 0 and 1 stand for, in a file that has one label
            per image, or one column per class in this order.

    Returns:
        `FindingsData` with ``findings``, else `TwoClassData`.

    Raises:
        InputError: the source is missing, damaged, of another layout, or cannot be downloaded.
    """
    size = source_size or SOURCE_SIZES[0]
    if classes is not None:
        _check_classes(data, classes)
    if data == "phantom":
        return _phantom(size, findings, related)
    if data in ("auto", "chestmnist"):
        try:
            return _official(root, size, findings, related)
        except NotAvailable as error:
            if data == "chestmnist":
                raise InputError(f"--data chestmnist: {error}") from None
            print(
                f"WARNING: ChestMNIST cannot be had: {error}\n"
                f"WARNING: using {PHANTOM_MARK}. Its numbers say nothing about X-rays.",
                file=sys.stderr,
                flush=True,
            )
            return _phantom(size, findings, related)
    path = Path(data)
    if not is_file_name(data):
        raise InputError(
            f"--data '{data}': allowed are auto, chestmnist, phantom or a file FILE.npz"
        )
    with contextlib.suppress(RuntimeError):  # ~name of a user who does not exist
        path = path.expanduser()
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        raise InputError(f"--data '{data}': there is no such file")

    def check(loaded: Data) -> None:
        if source_size not in (None, loaded.size):
            raise InputError(
                f"--source-size {source_size}: '{path.name}' holds {loaded.size}-px images"
            )

    if findings:
        return uncached(path, check, classes=classes)
    return with_cache(path, check, related=related, classes=classes)


def is_file_name(data: str) -> bool:
    """Whether a value of ``--data`` names a file, ``FILE.npz`` or on some systems ``FILE.NPZ``."""
    return data.lower().endswith(".npz")


def _check_classes(data: str, classes: Sequence[str]) -> None:
    if sorted(classes) != sorted(CLASS_NAMES):
        raise InputError(
            f"--classes {','.join(classes)}: allowed are {','.join(CLASS_NAMES)} and "
            f"{','.join(CLASS_NAMES[::-1])}; the first is label 0, the second label 1"
        )
    if not is_file_name(data):
        raise InputError(f"--classes is for --data FILE.npz; '{data}' has 14 label columns")


class NotAvailable(Exception):
    """The official file is not on disk and cannot be downloaded; the message says why."""


def _official(
    root: Path | None, size: int, findings: bool, related: bool
) -> TwoClassData | FindingsData:
    try:
        root = root or Path.home() / ".medmnist"
    except RuntimeError:
        raise NotAvailable("there is no home folder to keep it in; --root names another") from None
    path = root / ("chestmnist.npz" if size == 28 else f"chestmnist_{size}.npz")

    def fetch(path: Path) -> None:
        try:
            import medmnist
        except ImportError:
            raise NotAvailable(
                "medmnist, which knows the file's address and checksum, is not installed "
                "(pip install medmnist)"
            ) from None
        from chestlab.data.download import DownloadError
        from chestlab.data.download import fetch as download

        suffix = "" if size == 28 else f"_{size}"
        info = medmnist.INFO["chestmnist"]
        url = info[f"url{suffix}"]
        if mirror := os.environ.get("CHESTMNIST_MIRROR"):
            url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(url, path, f"md5:{info[f'MD5{suffix}']}")
        except DownloadError as error:
            raise NotAvailable(str(error)) from None
        except OSError as error:
            raise NotAvailable(f"cannot write in '{path.parent}': {error.strerror}") from None

    def check(data: Data) -> None:
        if isinstance(data, TwoClassData):
            counts = {name: tuple(data.counts()[name].values()) for name in SPLITS}
            official = OFFICIAL_COUNTS
        else:
            counts = {name: len(getattr(data, name)) for name in SPLITS}
            official = OFFICIAL_IMAGES
        if counts != official or data.size != size:
            raise InputError(
                f"'{path}' holds {counts} images of {data.size} px; the official file has "
                f"{official} of {size} px"
            )

    data = uncached(path, check, fetch) if findings else with_cache(path, check, fetch, related)
    return dataclasses.replace(data, source=f"ChestMNIST {size} px", phantom=False)


def _phantom(size: int, findings: bool, related: bool) -> TwoClassData | FindingsData:
    from chestlab.data.phantom import make_phantom

    arrays = make_phantom(size, **STAND_IN)
    digest = hashlib.sha256()
    splits = {}
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        digest.update(images.tobytes() + labels.tobytes())
        keep = np.ones(len(labels), bool) if findings else two_class_mask(labels)
        classes = labels if findings else labels[keep][:, CLASS_COLUMNS[1]]
        splits[split] = Split(images[keep], classes, np.flatnonzero(keep))
    if related:
        labels = arrays["train_labels"]
        keep = related_mask(labels)
        classes = labels[keep][:, CLASS_COLUMNS[1]]
        splits["related"] = Split(arrays["train_images"][keep], classes, np.flatnonzero(keep))
    return (FindingsData if findings else TwoClassData)(
        **splits,
        source=f"{PHANTOM_MARK} ({size} px)",
        sha256=digest.hexdigest(),
        phantom=True,
    )
