"""ChestMNIST as a two-class problem: cardiomegaly (0) against pneumothorax (1).

A sample is kept when its 14-flag label vector sums to exactly one and the single flag is column 1
(cardiomegaly) or column 7 (pneumothorax). The source is streamed out of its zip in blocks, so even
the 224-px file (3.9 GB of training images once unpacked) takes little memory, and the two-class
subset is cached as a small npz, so that the next start takes no time.

ChestMNIST: Yang et al., MedMNIST v2 (https://doi.org/10.1038/s41597-022-01721-8), CC BY 4.0, made
from NIH ChestX-ray14 (Wang et al., CVPR 2017).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from phantom import PHANTOM_MARK
from storage import InputError, atomic_write

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "val", "test")
CLASS_NAMES = ("cardiomegaly", "pneumothorax")
CLASS_COLUMNS = (1, 7)  # of the 14 ChestMNIST labels
N_FINDINGS = 14
SOURCE_SIZES = (28, 64, 128, 224)
OFFICIAL_COUNTS = {"train": (754, 1552), "val": (97, 208), "test": (243, 439)}
PATIENT_CHARACTERS = 8  # of an NIH file name: 00000013_005.png is image 5 of patient 00000013

_SMALLEST, _LARGEST = 16, 1024  # image sides in pixels that are accepted
_BLOCK_BYTES = 8 << 20
_DEFLATE_LIMIT = 1100  # deflate shrinks at most 1032:1; a larger claim is a damaged or hostile file
_CACHE_VERSION = 1


@dataclass(frozen=True)
class Split:
    """The two-class images of one split, in the order of the source.

    Attributes:
        images: (N, S, S) uint8.
        labels: (N,) uint8, 0 cardiomegaly, 1 pneumothorax.
        index: (N,) int64, row in the source's split.
        names: (N,) file names, or None where the source has none.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def patients(self) -> np.ndarray | None:
        """(N,) patient of each image, or None where the source has no names."""
        return None if self.names is None else self.names.astype(f"U{PATIENT_CHARACTERS}")

    def to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 1, S, S) uint8 and labels (N,) float32 on ``device``."""
        import torch

        images = torch.from_numpy(self.images)[:, None].to(device)
        return images, torch.from_numpy(self.labels).to(device, torch.float32)


@dataclass(frozen=True)
class TwoClassData:
    """Train, val and test with what a reader must know about where they come from.

    Attributes:
        source: one readable line, e.g. ``ChestMNIST 28 px`` or a file's name.
        sha256: of the source file (of the arrays, for a phantom made in memory).
        phantom: the images are procedural and no X-rays.
    """

    train: Split
    val: Split
    test: Split
    source: str
    sha256: str
    phantom: bool = False

    @property
    def size(self) -> int:
        """Side of the source images in pixels."""
        return int(self.train.images.shape[1])

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        return {
            name: {
                c: int((getattr(self, name).labels == k).sum()) for k, c in enumerate(CLASS_NAMES)
            }
            for name in SPLITS
        }


def load(
    data: str = "auto", root: Path | None = None, source_size: int | None = None
) -> TwoClassData:
    """Read the two-class subset of the source that ``--data`` names.

    Args:
        data: ``chestmnist`` (the official file, downloaded if need be), ``phantom``, ``auto``
            (the first where it can be had, else the second, said loudly), or the path of an npz in
            ChestMNIST's layout.
        root: folder of the official files; None is medmnist's, ``~/.medmnist``.
        source_size: 28 (None), 64, 128 or 224 px; for a file it must be None or the file's own.

    Raises:
        InputError: the source is missing, damaged, of another layout, or cannot be downloaded.
    """
    size = source_size or SOURCE_SIZES[0]
    if data == "phantom":
        return _phantom(size)
    if data in ("auto", "chestmnist"):
        try:
            return _official(root or Path.home() / ".medmnist", size)
        except _NotAvailable as error:
            if data == "chestmnist":
                raise InputError(f"--data chestmnist: {error}") from None
            print(
                f"WARNING: ChestMNIST cannot be had: {error}\n"
                f"WARNING: training on {PHANTOM_MARK}. Its numbers say nothing about X-rays.",
                file=sys.stderr,
                flush=True,
            )
            return _phantom(size)
    path = Path(data).expanduser()
    if path.suffix != ".npz":
        raise InputError(
            f"--data '{data}': allowed are auto, chestmnist, phantom or a file FILE.npz"
        )
    if not path.is_file():
        raise InputError(f"--data '{data}': there is no such file")
    loaded = _with_cache(path)
    if source_size not in (None, loaded.size):
        raise InputError(
            f"--source-size {source_size}: '{path.name}' holds {loaded.size}-px images"
        )
    return loaded


def two_class_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: exactly one flag, and that one column 1 or 7."""
    return (labels.sum(1, dtype=np.int64) == 1) & labels[:, CLASS_COLUMNS].any(1)


def filter_npz(path: Path) -> TwoClassData:
    """Stream an npz in ChestMNIST's layout and keep its two-class images.

    Memory: the kept images plus one block of 8 MB, whatever the size of the source.

    Raises:
        InputError: no sound npz, an array is missing or of wrong type or shape, a label is not 0
            or 1, or a split lacks a class.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            splits = {name: _filter_split(archive, name) for name in SPLITS}
            phantom = "phantom.npy" in archive.namelist()
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    except Exception as error:  # damaged zips raise nearly any type, from KeyError to zlib.error
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise InputError(
            f"'{path}' is not a sound npz file ({type(error).__name__}: {reason}); "
            "delete it and fetch or copy it again"
        ) from None
    sizes = {name: splits[name].images.shape[1] for name in SPLITS}
    if len(set(sizes.values())) > 1:
        raise InputError(f"'{path}': the splits differ in image size: {sizes}")
    return TwoClassData(
        **splits,
        source=f"{PHANTOM_MARK} ({path.name})" if phantom else path.name,
        sha256=_sha256(path),
        phantom=phantom,
    )


def _filter_split(archive: zipfile.ZipFile, split: str) -> Split:
    labels = _read_array(archive, f"{split}_labels")
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.shape[1] != N_FINDINGS:
        raise InputError(
            f"{split}_labels is {labels.dtype} {labels.shape}; wanted is uint8 (N, {N_FINDINGS})"
        )
    if labels.size and labels.max() > 1:
        raise InputError(f"{split}_labels holds {labels.max()}; allowed are 0 and 1")
    keep = two_class_mask(labels)
    classes = labels[keep][:, CLASS_COLUMNS[1]]
    for k, name in enumerate(CLASS_NAMES):
        if not (classes == k).any():
            raise InputError(f"the {split} split has no image labelled {name} alone")

    names = None
    names = None
    if f"{split}_names.npy" in archive.namelist():
        names = _read_array(archive, f"{split}_names")
        if names.dtype.kind != "U" or names.shape != keep.shape:
            raise InputError(
                f"{split}_names is {names.dtype} {names.shape}; wanted is text ({len(keep)},)"
            )
        names = names[keep]
    images = _read_rows(archive, f"{split}_images", keep)
    return Split(images, classes, np.flatnonzero(keep), names)


def _open_array(
    archive: zipfile.ZipFile, name: str
) -> tuple[IO[bytes], tuple[int, ...], bool, np.dtype]:
    """Open a member and check that its header, the zip's directory and deflate's limit agree.

    Nothing of the claimed size is allocated before that.
    """
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise InputError(f"there is no array '{name}'")
    info = archive.getinfo(member)
    stream = archive.open(member)
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise InputError(f"'{name}' has an unknown npy version {version}")
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise InputError(f"'{name}' holds Python objects; they are not read, for safety")
    elements = 1
    for side in shape:  # Python integers: a product that claims 2**70 must not wrap around
        elements *= int(side)
    if min(shape, default=0) < 0 or stream.tell() + elements * dtype.itemsize != info.file_size:
        raise InputError(f"'{name}' claims the shape {shape}, which is not what the file holds")
    if info.file_size > info.compress_size * _DEFLATE_LIMIT:
        raise InputError(f"'{name}' claims more data than the file can hold")
    return stream, shape, fortran, dtype


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    stream, shape, fortran, dtype = _open_array(archive, name)
    with stream:
        content = stream.read()
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array.copy(order="C")  # what lies over bytes is read-only, which PyTorch warns about


def _read_rows(archive: zipfile.ZipFile, name: str, keep: np.ndarray) -> np.ndarray:
    """Rows of a (N, S, S) uint8 array where ``keep`` is true, unpacked block by block."""
    stream, shape, fortran, dtype = _open_array(archive, name)
    with stream:
        square = len(shape) == 3 and shape[1] == shape[2]
        if dtype != np.uint8 or not square or fortran or shape[0] != len(keep):
            order = ", Fortran order" if fortran else ""
            raise InputError(
                f"{name} is {dtype} {shape}{order}; wanted is uint8 ({len(keep)}, S, S), C order"
            )
        side = shape[1]
        if not _SMALLEST <= side <= _LARGEST:
            raise InputError(f"{name} is {side} px wide; allowed are {_SMALLEST} to {_LARGEST}")
        rows = np.empty((int(keep.sum()), side, side), np.uint8)
        filled = 0
        for start, block in _blocks(stream, len(keep), side * side):
            chosen = keep[start : start + len(block)]
            count = int(chosen.sum())
            rows[filled : filled + count] = block[chosen].reshape(count, side, side)
            filled += count
    return rows


def _blocks(stream: IO[bytes], n: int, row_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    per_block = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, n, per_block):
        wanted = min(per_block, n - start) * row_bytes
        content = stream.read(wanted)
        if len(content) != wanted:
            raise EOFError("the file ends early")
        yield start, np.frombuffer(content, np.uint8).reshape(-1, row_bytes)
    stream.read(1)  # reaching the end makes zipfile compare the checksum


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


# The cache: the same arrays, two-class rows only, and a note of which source they came from.


def _with_cache(path: Path, verify: Any = None) -> TwoClassData:
    """The subset from the cache if it belongs to this very source, else from the source.

    Args:
        path: the source.
        verify: called with ``path`` before a source that is not cached is read, and with the
            result after; may raise. The cache remembers that it was.
    """
    path = path.resolve()
    try:
        identity = _identity(path, verified=verify is not None)
    except Exception:  # not a zip: let the reader say what is wrong with it
        identity = None
    candidates = [path.with_name(f"{path.stem}.two-class.npz"), _user_cache(path)]
    if identity is not None:
        for candidate in candidates:
            cached = _read_cache(candidate, identity)
            if cached is not None:
                return cached
    if verify is not None:
        verify(path)
    data = filter_npz(path)
    if identity is not None:
        _write_cache(candidates, identity, data)
    return data


def _identity(path: Path, verified: bool) -> str:
    """What tells one source from another in no time: times, sizes and the zip's checksums."""
    status = path.stat()
    with zipfile.ZipFile(path) as archive:
        members = [(i.filename, i.CRC, i.file_size, i.compress_size) for i in archive.infolist()]
    directory = hashlib.sha256(json.dumps(members).encode()).hexdigest()
    return json.dumps(
        [_CACHE_VERSION, path.name, status.st_size, status.st_mtime_ns, directory, verified]
    )


def _user_cache(path: Path) -> Path:
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    key = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(base) / "chestmnist-two-class" / f"{path.stem}.{key}.npz"


def _read_cache(path: Path, identity: str) -> TwoClassData | None:
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(_read_array(archive, "about").item())
            if about["identity"] != identity:
                return None
            splits = {}
            for split in SPLITS:
                labels = _read_array(archive, f"{split}_labels")
                named = f"{split}_names.npy" in archive.namelist()
                splits[split] = Split(
                    _read_rows(archive, f"{split}_images", np.ones(len(labels), bool)),
                    labels,
                    _read_array(archive, f"{split}_index"),
                    _read_array(archive, f"{split}_names") if named else None,
                )
        return TwoClassData(
            **splits, source=about["source"], sha256=about["sha256"], phantom=about["phantom"]
        )
    except Exception:  # a missing, stale or damaged cache is made anew
        return None


def _write_cache(candidates: list[Path], identity: str, data: TwoClassData) -> None:
    about = {
        "identity": identity,
        "source": data.source,
        "sha256": data.sha256,
        "phantom": data.phantom,
    }
    arrays = {"about": np.array(json.dumps(about))}
    for name in SPLITS:
        split = getattr(data, name)
        arrays |= {f"{name}_{key}": getattr(split, key) for key in ("images", "labels", "index")}
        if split.names is not None:
            arrays[f"{name}_names"] = split.names
    for candidate in candidates:
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(candidate, lambda file: np.savez(file, **arrays))
            return
        except OSError:
            continue  # a read-only place or a full disk: the next start filters again


# The sources other than a file the user names.


class _NotAvailable(Exception):
    """The official file is neither on disk nor to be downloaded; the message says why."""


def _official(root: Path, size: int) -> TwoClassData:
    path = root / ("chestmnist.npz" if size == 28 else f"chestmnist_{size}.npz")

    def fetch_and_check(path: Path) -> None:
        try:
            import medmnist
        except ImportError:
            raise _NotAvailable(
                "medmnist, which knows the file's address and checksum, is not installed "
                "(pip install medmnist)"
            ) from None
        from download import DownloadError, fetch

        suffix = "" if size == 28 else f"_{size}"
        info = medmnist.INFO["chestmnist"]
        url = info[f"url{suffix}"]
        if mirror := os.environ.get("CHESTMNIST_MIRROR"):
            url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fetch(url, path, md5=info[f"MD5{suffix}"])
        except DownloadError as error:
            raise _NotAvailable(str(error)) from None
        except OSError as error:
            raise _NotAvailable(f"cannot write in '{path.parent}': {error.strerror}") from None

    if not path.is_file():
        fetch_and_check(path)
    data = _with_cache(path, verify=fetch_and_check)
    found = {name: tuple(data.counts()[name].values()) for name in SPLITS}
    if found != OFFICIAL_COUNTS:
        raise InputError(f"'{path}' holds {found}; the official file has {OFFICIAL_COUNTS}")
    return TwoClassData(
        data.train, data.val, data.test, f"ChestMNIST {size} px", data.sha256, phantom=False
    )


def _phantom(size: int) -> TwoClassData:
    from phantom import make_phantom

    arrays = make_phantom(size=size)
    digest = hashlib.sha256()
    splits = {}
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        digest.update(images.tobytes() + labels.tobytes())
        keep = two_class_mask(labels)
        splits[split] = Split(images[keep], labels[keep][:, CLASS_COLUMNS[1]], np.flatnonzero(keep))
    return TwoClassData(
        **splits,
        source=f"{PHANTOM_MARK} ({size} px)",
        sha256=digest.hexdigest(),
        phantom=True,
    )
