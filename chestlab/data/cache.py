"""A cache file with the two-class images of a large source, so that the next start is quick."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.arrays import NpzArray, check_same_keys, open_npz
from chestlab.data.npz import filter_npz
from chestlab.data.splits import SPLITS, Data, FindingsData, Split, TwoClassData
from chestlab.files.atomic import atomic_write

_CACHE_VERSION = 2  # of what the cache holds and of how it follows from the source


def with_cache(
    path: Path,
    check: Callable[[Data], None],
    fetch: Callable[[Path], None] | None = None,
    related: bool = False,
    classes: Sequence[str] | None = None,
) -> TwoClassData:
    """Read the two-class images from the cache, or from the source and then write the cache.

    The cache is an npz file of the source's arrays with the two-class rows only, and with the
    identity of the source. A cache of another, or of a changed, source is not used. A file of the
    user's own that has its name is neither read nor replaced.

    Args:
        path: the source.
        check: raises `InputError` where the data are not as requested; nothing is cached then.
        fetch: downloads the official file to ``path``, unless it is there with the right checksum.
            The cache stores that the checksum was verified.
        related: see `sources.load`. A cache without these images is written anew with them.
        classes: see `npz.filter_npz`. A cache of other classes is written anew.
    """
    path = path.resolve()
    paths = _cache_paths(path)
    identity = _identity(path, fetch is not None, classes)
    for cached in paths:
        if identity is not None and (data := _read_cache(cached, identity, related)) is not None:
            check(data)
            print_messages(data)
            return data
    if fetch is not None:
        fetch(path)
        identity = _identity(path, True, classes)  # it may be another file now
    data = filter_npz(path, related=related, classes=classes)
    check(data)
    if identity is not None:
        _write_cache(paths, identity, data)
    print_messages(data)
    return data


def uncached(
    path: Path,
    check: Callable[[Data], None],
    fetch: Callable[[Path], None] | None = None,
    classes: Sequence[str] | None = None,
) -> FindingsData:
    """Read all images from the source; a cache would be another copy of it. See `with_cache`."""
    path = path.resolve()
    if fetch is not None:
        fetch(path)
    data = filter_npz(path, findings=True, classes=classes)
    check(data)
    print_messages(data)
    return data


def print_messages(data: Data) -> None:
    """Print on stderr what was converted of a source, and what is wrong with it."""
    for text in data.notes:
        print(f"NOTE: '{data.source}': {text}", file=sys.stderr, flush=True)
    for text in data.warnings:
        print(f"WARNING: '{data.source}': {text}", file=sys.stderr, flush=True)


def _identity(path: Path, verified: bool, classes: Sequence[str] | None) -> str | None:
    """A text that differs between sources and is quick to make: time, sizes, the zip's checksums.

    It also tells what labels 0 and 1 were taken for, where that is not in the file.

    None where ``path`` is no zip; `filter_npz` then raises the error.
    """
    try:
        status = path.stat()
        with zipfile.ZipFile(path) as archive:
            members = [
                (i.filename, i.CRC, i.file_size, i.compress_size) for i in archive.infolist()
            ]
    except Exception:
        return None
    directory = hashlib.sha256(json.dumps(members).encode()).hexdigest()
    parts = [_CACHE_VERSION, path.name, status.st_size, status.st_mtime_ns, directory, verified]
    return json.dumps(parts if classes is None else [*parts, list(classes)])


def _cache_paths(path: Path) -> list[Path]:
    """Paths in order of preference: beside the source, and in the user's cache folder."""
    paths = [path.with_name(f"{path.stem}.two-class.npz")]
    with contextlib.suppress(RuntimeError):  # there is no home folder
        if os.name == "nt":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        paths.append(Path(base) / "chestmnist-two-class" / f"{path.stem}.{key}.npz")
    return paths


def _is_foreign(path: Path) -> bool:
    """Whether there is something that is not, or for damage cannot be told to be, a cache."""
    try:
        with open_npz(path) as archive:
            return "identity" not in _read_about(archive)
    except FileNotFoundError:
        return False
    except Exception:
        return True


def _read_about(archive: zipfile.ZipFile) -> dict[str, Any]:
    about = NpzArray(archive, "about")
    about.check(about.dtype.kind == "U" and about.shape == (1,), "text (1,)")
    return json.loads(about.read().item())


def _read_cache(path: Path, identity: str, related: bool) -> TwoClassData | None:
    try:
        with open_npz(path) as archive:
            check_same_keys(archive)
            about = _read_about(archive)
            if about.pop("identity") != identity:
                return None
            return TwoClassData(
                train=_read_cached_split(archive, "train"),
                val=_read_cached_split(archive, "val"),
                test=_read_cached_split(archive, "test"),
                related=_read_cached_split(archive, "related") if related else None,
                source=str(about["source"]),
                sha256=str(about["sha256"]),
                phantom=bool(about["phantom"]),
                warnings=tuple(str(text) for text in about["warnings"]),
                notes=tuple(str(text) for text in about.get("notes", ())),
                classes=tuple(about["classes"]) if about.get("classes") else None,
            )
    except Exception:  # a missing or damaged cache is written anew
        return None


def _read_cached_split(archive: zipfile.ZipFile, split: str) -> Split:
    images, labels, index = (
        NpzArray(archive, f"{split}_{key}") for key in ("images", "labels", "index")
    )
    n = images.shape[0]
    side = images.shape[-1]
    images.check(images.dtype == np.uint8 and images.shape == (n, side, side), "uint8 (N, S, S)")
    labels.check(labels.dtype == np.uint8 and labels.shape == (n,), f"uint8 ({n},)")
    index.check(index.dtype == np.int64 and index.shape == (n,), f"int64 ({n},)")
    names = None
    if f"{split}_names.npy" in archive.namelist():
        names = NpzArray(archive, f"{split}_names")
        names.check_names(n)
        names = names.read()
    patients = None
    if f"{split}_patients.npy" in archive.namelist():
        patients = NpzArray(archive, f"{split}_patients").read_patients(n)
    return Split(images.read(), labels.read(), index.read(), names, patients=patients)


def _write_cache(paths: list[Path], identity: str, data: TwoClassData) -> None:
    about = {
        "identity": identity,
        "source": data.source,
        "sha256": data.sha256,
        "phantom": data.phantom,
        "warnings": data.warnings,
    }
    if data.notes:
        about["notes"] = data.notes
    if data.classes:
        about["classes"] = data.classes
    arrays: dict[str, Any] = {"about": np.array([json.dumps(about)])}
    for name in [*SPLITS, *(["related"] if data.related is not None else [])]:
        split = getattr(data, name)
        arrays |= {f"{name}_{key}": getattr(split, key) for key in ("images", "labels", "index")}
        if split.names is not None:
            arrays[f"{name}_names"] = split.names
        if split.patients is not None:
            arrays[f"{name}_patients"] = split.patients
    for cached in paths:
        if cached is paths[0] and _is_foreign(cached):  # beside the source are the user's files
            continue
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(cached, lambda file: np.savez(file, **arrays))
            return
        except OSError:
            continue  # a read-only folder or a full disk: the next start reads the source again
