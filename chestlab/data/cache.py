"""The two-class images of a large source, kept in a small file so that the next start is quick."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chestlab.data.npz import _Array, _open_npz, filter_npz
from chestlab.data.splits import SPLITS, Data, FindingsData, Split, TwoClassData
from chestlab.files.atomic import atomic_write

_CACHE_VERSION = 1

# The cache: the same arrays, two-class rows only, and a note of which source they came from.


def with_cache(
    path: Path,
    check: Callable[[Data], None],
    fetch: Callable[[Path], None] | None = None,
    related: bool = False,
) -> TwoClassData:
    """The subset from the cache if it belongs to this very source, else from the source.

    Args:
        path: the source.
        check: raises where the data are not what was asked for; nothing is cached then.
        fetch: makes sure that ``path`` is the sound official file, before it is read. The cache
            remembers that it was.
        related: see `load`. A cache without these images is made anew with them.
    """
    path = path.resolve()
    places = _cache_places(path)
    identity = _identity(path, verified=fetch is not None)
    for place in places:
        if identity is not None and (data := _read_cache(place, identity, related)) is not None:
            check(data)
            return data
    if fetch is not None:
        fetch(path)
        identity = _identity(path, verified=True)  # it may be another file now
    data = filter_npz(path, related=related)
    check(data)
    if identity is not None:
        _write_cache(places, identity, data)
    return data


def uncached(
    path: Path, check: Callable[[Data], None], fetch: Callable[[Path], None] | None = None
) -> FindingsData:
    """All images; a cache of them would be another copy of the source."""
    path = path.resolve()
    if fetch is not None:
        fetch(path)
    data = filter_npz(path, findings=True)
    check(data)
    return data


def _identity(path: Path, verified: bool) -> str | None:
    """What tells one source from another in no time: times, sizes and the zip's checksums.

    None where there is no zip; the reader says what is wrong with it.
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
    return json.dumps(
        [_CACHE_VERSION, path.name, status.st_size, status.st_mtime_ns, directory, verified]
    )


def _cache_places(path: Path) -> list[Path]:
    """Beside the source, and in the user's cache folder where there is a home for one."""
    places = [path.with_name(f"{path.stem}.two-class.npz")]
    with contextlib.suppress(RuntimeError):  # there is no home
        if os.name == "nt":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        places.append(Path(base) / "chestmnist-two-class" / f"{path.stem}.{key}.npz")
    return places


def _read_cache(path: Path, identity: str, related: bool) -> TwoClassData | None:
    splits = [*SPLITS, "related"] if related else SPLITS
    try:
        with _open_npz(path) as archive:
            about = _Array(archive, "about")
            about.check(about.dtype.kind == "U" and about.shape == (1,), "text (1,)")
            about = json.loads(about.read().item())
            if about.pop("identity") != identity:
                return None
            return TwoClassData(
                **{split: _read_cached_split(archive, split) for split in splits},
                source=str(about["source"]),
                sha256=str(about["sha256"]),
                phantom=bool(about["phantom"]),
            )
    except Exception:  # a missing, stale or damaged cache is made anew
        return None


def _read_cached_split(archive: zipfile.ZipFile, split: str) -> Split:
    images, labels, index = (
        _Array(archive, f"{split}_{key}") for key in ("images", "labels", "index")
    )
    n = images.shape[0]
    images.check_images(n)
    labels.check(labels.dtype == np.uint8 and labels.shape == (n,), f"uint8 ({n},)")
    index.check(index.dtype == np.int64 and index.shape == (n,), f"int64 ({n},)")
    names = None
    if f"{split}_names.npy" in archive.namelist():
        names = _Array(archive, f"{split}_names")
        names.check_names(n)
        names = names.read()
    return Split(images.read(), labels.read(), index.read(), names)


def _write_cache(places: list[Path], identity: str, data: TwoClassData) -> None:
    about = {
        "identity": identity,
        "source": data.source,
        "sha256": data.sha256,
        "phantom": data.phantom,
    }
    arrays = {"about": np.array([json.dumps(about)])}
    for name in [*SPLITS, *(["related"] if data.related is not None else [])]:
        split = getattr(data, name)
        arrays |= {f"{name}_{key}": getattr(split, key) for key in ("images", "labels", "index")}
        if split.names is not None:
            arrays[f"{name}_names"] = split.names
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, lambda file: np.savez(file, **arrays))
            return
        except OSError:
            continue  # a read-only place or a full disk: the next start filters again
