"""ChestMNIST as a two-class problem: cardiomegaly (0) against pneumothorax (1); or all of it.

A sample is kept when its 14-flag label vector sums to exactly one and the single flag is column 1
(cardiomegaly) or column 7 (pneumothorax). The source is streamed out of its zip in blocks, so even
the 224-px file (3.9 GB of training images once unpacked) takes little memory, and the two-class
subset is cached as a small npz, so that the next start takes no time. With all 14 findings every
image is kept: memory then is that of the images, and there is nothing to cache.

ChestMNIST: Yang et al., MedMNIST v2 (https://doi.org/10.1038/s41597-022-01721-8), CC BY 4.0, made
from NIH ChestX-ray14 (Wang et al., CVPR 2017).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phantom import OFFICIAL_COUNTS, PHANTOM_MARK
from storage import InputError, atomic_write

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "val", "test")
CLASS_NAMES = ("cardiomegaly", "pneumothorax")
CLASS_COLUMNS = (1, 7)  # of the 14 ChestMNIST labels
FINDINGS = (  # MedMNIST's order of the label columns
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural thickening",
    "hernia",
)
OFFICIAL_IMAGES = {"train": 78_468, "val": 11_219, "test": 22_433}
SOURCE_SIZES = (28, 64, 128, 224)
NIH_CREDIT = "X-rays: NIH Clinical Center, ChestX-ray14 (Wang et al., CVPR 2017)"
PATIENT_CHARACTERS = 8  # of an NIH file name: 00000013_005.png is image 5 of patient 00000013

_SMALLEST, _LARGEST = 16, 1024  # image sides in pixels that are accepted
_LONGEST_NAME = 255  # characters
_BLOCK_BYTES = 8 << 20
_LARGEST_FORTRAN = 32 << 20  # bytes read at once where rows are not contiguous: 2.4 million labels
_DEFLATE_LIMIT = 1100  # deflate shrinks at most 1032:1; a larger claim is a damaged or hostile file
_CACHE_VERSION = 1


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of the source.

    Attributes:
        images: (N, S, S) uint8.
        labels: (N,) uint8, 0 cardiomegaly, 1 pneumothorax; or (N, 14) of 0 and 1, `FINDINGS`.
        index: (N,) int64, row in the source's split.
        names: (N,) file names, or None where the source has none.
        origin: (N,) name of each image's split in the source, where several were joined.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: np.ndarray | None = None
    origin: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """The images of ``rows`` (integers or booleans)."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Split(*(None if value is None else value[rows] for value in values))

    @property
    def patients(self) -> np.ndarray | None:
        """(N,) patient of each image, or None where the source has no names."""
        return None if self.names is None else self.patients_of(self.names)

    @staticmethod
    def patients_of(names: np.ndarray) -> np.ndarray:
        """File names (N,) to patients (N,)."""
        return names.astype(f"U{PATIENT_CHARACTERS}")

    def to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 1, S, S) uint8 and labels (N,) or (N, 14) float32 on ``device``."""
        import torch

        images = torch.from_numpy(self.images)[:, None].to(device)
        return images, torch.from_numpy(self.labels).to(device, torch.float32)


@dataclass(frozen=True)
class _Data:
    """Train, val and test with what a reader must know about where they come from.

    Attributes:
        source: one readable line, e.g. ``ChestMNIST 28 px`` or a file's name.
        sha256: of the source file (of the arrays, for a phantom made in memory).
        phantom: the images are procedural and no X-rays.
        fold: which part of a cross-validation this is, in words, or empty.
        held_out: images of a fold that train, val and test leave out; None where it is val's
            turn to be the fold.
        related: training images that show one of the two classes beside other findings; None
            where they were not asked for.
    """

    train: Split
    val: Split
    test: Split
    source: str
    sha256: str
    phantom: bool = False
    fold: str = ""
    held_out: Split | None = None
    related: Split | None = None

    @property
    def size(self) -> int:
        """Side of the source images in pixels."""
        return int(self.train.images.shape[1])


class TwoClassData(_Data):
    """Images with exactly one finding, one of two."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        return {
            name: {
                c: int((getattr(self, name).labels == k).sum()) for k, c in enumerate(CLASS_NAMES)
            }
            for name in SPLITS
        }


class FindingsData(_Data):
    """All images of the source, with labels (N, 14)."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and finding; one image can have several findings, or none."""
        return {
            name: dict(zip(FINDINGS, getattr(self, name).labels.sum(0).tolist(), strict=True))
            for name in SPLITS
        }


def load(
    data: str = "auto",
    root: Path | None = None,
    source_size: int | None = None,
    findings: bool = False,
    related: bool = False,
) -> TwoClassData | FindingsData:
    """Read the two-class subset of the source that ``--data`` names, or all of it.

    Args:
        data: ``chestmnist`` (the official file, downloaded if need be), ``phantom``, ``auto``
            (the first where it can be had, else the second, said loudly), or the path of an npz in
            ChestMNIST's layout.
        root: folder of the official files; None is medmnist's, ``~/.medmnist``.
        source_size: 28 (None), 64, 128 or 224 px; for a file it must be None or the file's own.
        findings: every image with its 14 labels. Memory: the images plus one block of 8 MB; those
            of the official 224-px file take 5.6 GB.
        related: of the training images those, too, that show one of the two classes beside other
            findings; they take more than twice the memory of the two-class ones.

    Raises:
        InputError: the source is missing, damaged, of another layout, or cannot be downloaded.
    """
    size = source_size or SOURCE_SIZES[0]
    if data == "phantom":
        return _phantom(size, findings, related)
    if data in ("auto", "chestmnist"):
        try:
            return _official(root, size, findings, related)
        except _NotAvailable as error:
            if data == "chestmnist":
                raise InputError(f"--data chestmnist: {error}") from None
            print(
                f"WARNING: ChestMNIST cannot be had: {error}\n"
                f"WARNING: training on {PHANTOM_MARK}. Its numbers say nothing about X-rays.",
                file=sys.stderr,
                flush=True,
            )
            return _phantom(size, findings, related)
    path = Path(data)
    if path.suffix != ".npz":
        raise InputError(
            f"--data '{data}': allowed are auto, chestmnist, phantom or a file FILE.npz"
        )
    with contextlib.suppress(RuntimeError):  # ~name of a user who does not exist
        path = path.expanduser()
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        raise InputError(f"--data '{data}': there is no such file")

    def check(loaded: _Data) -> None:
        if source_size not in (None, loaded.size):
            raise InputError(
                f"--source-size {source_size}: '{path.name}' holds {loaded.size}-px images"
            )

    return _uncached(path, check) if findings else _with_cache(path, check, related=related)


def two_class_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: exactly one flag, and that one column 1 or 7."""
    return (labels.sum(1, dtype=np.int64) == 1) & labels[:, CLASS_COLUMNS].any(1)


def related_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: several findings, one of columns 1 and 7 among them."""
    one = labels[:, CLASS_COLUMNS].sum(1, dtype=np.int64) == 1
    return one & (labels.sum(1, dtype=np.int64) > 1)


def filter_npz(
    path: Path, findings: bool = False, related: bool = False
) -> TwoClassData | FindingsData:
    """Stream an npz in ChestMNIST's layout and keep its two-class images, or all with 14 labels.

    Memory: the kept images plus one block of 8 MB, whatever the size of the source.

    Raises:
        InputError: no sound npz, an array is missing or of wrong type or shape, a label is not 0
            or 1, or a split lacks a class (has no finding that some images have and some not).
    """
    try:
        with _open_npz(path) as archive:
            splits = {name: _filter_split(archive, name, findings) for name in SPLITS}
            if related:
                splits["related"] = _filter_split(archive, "train", related=True)
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
        **splits,
        source=f"{PHANTOM_MARK} ({name})" if phantom else name,
        sha256=_sha256(path),
        phantom=phantom,
    )


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
    return Split(images.read(keep), classes, np.flatnonzero(keep), names)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """An npz in whose directory no damage hides the optional arrays: names, a phantom's mark."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            archive.open(member).close()  # raises if the directory's name is not the member's own
        named = [split for split in SPLITS if f"{split}_names.npy" in archive.namelist()]
        if 0 < len(named) < len(SPLITS):
            raise InputError(f"of names there are only those of {', '.join(named)}")
        yield archive


class _Array:
    """One array of an npz, read in blocks of rows.

    Nothing of the size that a header claims is allocated before the header, the zip's directory
    and deflate's limit were found to agree.

    Raises:
        InputError: they do not, or the array holds Python objects.
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

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first row and the rows of each block; they need not all be read."""
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


# The cache: the same arrays, two-class rows only, and a note of which source they came from.


def _with_cache(
    path: Path,
    check: Callable[[_Data], None],
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


def _uncached(
    path: Path, check: Callable[[_Data], None], fetch: Callable[[Path], None] | None = None
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


# The sources other than a file the user names.


class _NotAvailable(Exception):
    """The official file is neither on disk nor to be downloaded; the message says why."""


def _official(
    root: Path | None, size: int, findings: bool, related: bool
) -> TwoClassData | FindingsData:
    try:
        root = root or Path.home() / ".medmnist"
    except RuntimeError:
        raise _NotAvailable("there is no home folder to keep it in; --root names another") from None
    path = root / ("chestmnist.npz" if size == 28 else f"chestmnist_{size}.npz")

    def fetch(path: Path) -> None:
        try:
            import medmnist
        except ImportError:
            raise _NotAvailable(
                "medmnist, which knows the file's address and checksum, is not installed "
                "(pip install medmnist)"
            ) from None
        from download import DownloadError
        from download import fetch as download

        suffix = "" if size == 28 else f"_{size}"
        info = medmnist.INFO["chestmnist"]
        url = info[f"url{suffix}"]
        if mirror := os.environ.get("CHESTMNIST_MIRROR"):
            url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(url, path, md5=info[f"MD5{suffix}"])
        except DownloadError as error:
            raise _NotAvailable(str(error)) from None
        except OSError as error:
            raise _NotAvailable(f"cannot write in '{path.parent}': {error.strerror}") from None

    def check(data: _Data) -> None:
        if findings:
            found, official = {name: len(getattr(data, name)) for name in SPLITS}, OFFICIAL_IMAGES
        else:
            found = {name: tuple(data.counts()[name].values()) for name in SPLITS}
            official = OFFICIAL_COUNTS
        if found != official or data.size != size:
            raise InputError(
                f"'{path}' holds {found} images of {data.size} px; the official file has "
                f"{official} of {size} px"
            )

    data = _uncached(path, check, fetch) if findings else _with_cache(path, check, fetch, related)
    return dataclasses.replace(data, source=f"ChestMNIST {size} px", phantom=False)


def _phantom(size: int, findings: bool, related: bool) -> TwoClassData | FindingsData:
    from phantom import make_phantom

    arrays = make_phantom(size=size)
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
