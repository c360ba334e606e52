"""The arrays of an npz file, read in blocks of rows without trust in what their headers claim."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from chestlab.data.splits import SPLITS
from chestlab.files.errors import InputError

SMALLEST, LARGEST = 16, 1024  # image sides in pixels that are accepted

LONGEST_NAME = 255  # characters of a file name or a patient

BLOCK_BYTES = 8 << 20

LARGEST_FORTRAN = 32 << 20  # bytes read at once where rows are not contiguous: 2.4 million labels

_DEFLATE_LIMIT = 1100  # deflate shrinks at most 1032:1; a larger claim is a damaged or hostile file


class ArrayError(InputError):
    """An array that cannot be used.

    Args:
        text: the array's name, shape and type, what is wrong, and what is allowed.
        where: Python expression of a name ``k`` and its array ``v`` that is true for the arrays
            which ``mend`` is for; empty for all.
        mend: numpy expression that makes a good array of ``v``, or empty.
        meaning: what the expression takes for granted, e.g. ``if 2 means present``.
    """

    def __init__(self, text: str, where: str = "", mend: str = "", meaning: str = "") -> None:
        super().__init__(text)
        self.where, self.mend, self.meaning = where, mend, meaning

    def line(self, path: Path) -> str:
        """A line of numpy that writes a mended copy beside ``path``; empty if there is none."""
        if not self.mend:
            return ""
        value = f"{self.mend} if {self.where} else v" if self.where else self.mend
        trusted = ", allow_pickle=True" if "tolist" in self.mend else ""
        new = str(path.with_name(f"{path.stem}_mended.npz"))
        meaning = f" {self.meaning}" if self.meaning else ""
        return (
            f"; a line of numpy that mends it{meaning}: np.savez({new!a}, **{{k: {value} for k, v "
            f"in np.load({str(path)!a}{trusted}).items()}})"
        )


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an npz file after checking its directory, where damage could hide optional arrays.

    Raises:
        InputError: it holds an array twice.
    """
    # A member that is still open would keep the file open on its own, and with it an exception that
    # a notebook remembers; Windows then lets nobody replace or delete the file.
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            archive.open(member).close()  # raises if the directory's name is not the member's own
        for name, count in Counter(archive.namelist()).items():
            if count > 1:
                name = name.removesuffix(".npy")
                raise InputError(f"it holds '{name}' {count} times; write it with each array once")
        yield archive


@contextlib.contextmanager
def npz_errors(path: Path) -> Iterator[None]:
    """Context in which every error of reading ``path`` becomes an `InputError` that names it."""
    try:
        yield
    except InputError as error:
        mending = error.line(path) if isinstance(error, ArrayError) else ""
        raise InputError(f"'{path}': {error}{mending}") from None
    except Exception as error:  # damaged zips raise nearly any type, from KeyError to zlib.error
        file = getattr(error, "filename", None)
        if file is not None and Path(file) != path:  # one that is written meanwhile
            raise
        if isinstance(error, PermissionError):
            raise InputError(f"'{path}': no permission to read it") from None
        reason = f"{type(error).__name__} {' '.join(str(error).split())}".strip()[:200]
        raise InputError(
            f"'{path}' is not a sound npz file ({reason}); delete it and fetch or copy it again"
        ) from None


class NpzArray:
    """One array of an npz file, read in blocks of rows.

    No memory of the size in the array's header is allocated before that size was compared with
    the zip's directory and with what deflate can compress.

    Attributes:
        name: without ``.npy``.
        shape: as its header says.
        dtype: as its header says.

    Raises:
        InputError: the sizes disagree, or the array holds Python objects.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise InputError(f"there is no array '{name}'; {held_arrays(archive)}")
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            text = f"'{name}' is compressed as numpy does not: its size has no limit"
            raise ArrayError(text, mend="v")
        self.name, self._stream = name, archive.open(member)
        if np.lib.format.read_magic(self._stream) != (1, 0):  # later ones claim headers of 4 GB
            raise ArrayError(f"'{name}' is not in version 1.0 of the npy format", mend="v")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers from Python 2: they are read all the same
            header = np.lib.format.read_array_header_1_0(self._stream)
        self.shape, fortran, self.dtype = header
        if self.dtype.hasobject:
            text = f"'{name}' holds Python objects; they are not read, for safety"
            mend, trust = "np.array(v.tolist())", "if you trust the file"
            raise ArrayError(text, "v.dtype == object", mend, trust)
        self._fortran = fortran and len(self.shape) > 1  # as a table from pandas often is
        if self._fortran and info.file_size > LARGEST_FORTRAN:
            text = f"'{name}' is in Fortran order and too large to be turned to C order"
            raise ArrayError(text, mend="np.ascontiguousarray(v)")
        claimed = math.prod(self.shape) * self.dtype.itemsize  # of Python integers: no wrap-around
        if min(self.shape, default=0) < 0 or self._stream.tell() + claimed != info.file_size:
            raise InputError(
                f"'{name}' claims the shape {self.shape}, which is not what the file holds"
            )
        if info.file_size > info.compress_size * _DEFLATE_LIMIT:
            raise InputError(f"'{name}' claims more data than the file can hold")

    @property
    def about(self) -> str:
        """Its name, type and shape, e.g. ``val_images is float32 (6, 28, 28)``."""
        return f"{self.name} is {self.dtype} {self.shape}"

    def alike(self, axes: slice = slice(1, None)) -> str:
        """Expression for `ArrayError` of the splits' arrays of this kind, type and shape.

        Args:
            axes: those whose length is the same in all splits.
        """
        return (
            f"k.endswith({self.name.split('_', 1)[-1]!r}) and v.dtype.kind == {self.dtype.kind!r} "
            f"and v.shape[{axes.start or ''}:{axes.stop or ''}] == {self.shape[axes]}"
        )

    def header(self, shape: tuple[int, ...]) -> bytes:
        """The header of an npy file of the same type with another shape, in C order."""
        buffer = io.BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(buffer, {**about, "shape": shape})
        return buffer.getvalue()

    def check(self, good: bool, wanted: str, mend: str = "") -> None:
        if not good:
            raise ArrayError(f"{self.about}; wanted is {wanted}", self.alike(), mend)

    def check_names(self, n: int) -> None:
        text = f"text of at most {LONGEST_NAME} characters"
        good = self.dtype.kind == "U" and 0 < self.dtype.itemsize <= 4 * LONGEST_NAME
        wanted = f"{text} ({n},), as there are {n} labels"
        mends = {"U": f"v.astype('U{LONGEST_NAME}')"} | dict.fromkeys("Siuf", "v.astype(str)")
        mend = mends.get(self.dtype.kind, "") if self.shape == (n,) else ""
        self.check(good and self.shape == (n,), wanted, mend)

    def read_patients(self, n: int, keep: np.ndarray | None = None) -> np.ndarray:
        """Patients as text, of the rows where ``keep`` (N,) is true, or of all N = ``n``.

        Raises:
            InputError: neither text nor integers, or an entry is empty.
        """
        text = self.dtype.kind == "U" and 0 < self.dtype.itemsize <= 4 * LONGEST_NAME
        wanted = f"integers or text of at most {LONGEST_NAME} characters ({n},), as there are {n}"
        good = (text or self.dtype.kind in "iu") and self.shape == (n,)
        mend = "v.astype(str)" if self.dtype.kind in "Sf" and self.shape == (n,) else ""
        self.check(good, f"{wanted} labels", mend)
        patients = self.read(keep).astype(str)
        empty = sum(not patient.strip() for patient in patients.tolist())
        if empty:
            raise InputError(f"{self.name} has no patient for {empty} of {len(patients)} images")
        return patients

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row number and rows of each block; the caller may stop early."""
        n, row_bytes = self.shape[0], math.prod(self.shape[1:]) * self.dtype.itemsize
        per_block = max(1, n if self._fortran else BLOCK_BYTES // row_bytes)
        for start in range(0, n, per_block):
            wanted = min(per_block, n - start) * row_bytes
            content = self._stream.read(wanted)
            if len(content) != wanted:
                raise EOFError("the file ends early")
            block = np.frombuffer(content, self.dtype)
            shape = (len(block) * self.dtype.itemsize // row_bytes, *self.shape[1:])
            yield start, block.reshape(shape, order="F" if self._fortran else "C")
        self._stream.read(1)  # reaching the end makes zipfile compare the checksum

    def read(
        self,
        keep: np.ndarray | None = None,
        convert: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """The rows where ``keep`` (N,) is true, or all.

        Args:
            keep: which rows.
            convert: is given the chosen rows of a block and returns as many rows of another shape
                or type.
        """
        count = self.shape[0] if keep is None else int(keep.sum())
        rows, filled = None, 0
        for start, block in self.blocks():
            chosen = block if keep is None else block[keep[start : start + len(block)]]
            if convert is not None:
                chosen = convert(chosen)
            if rows is None:
                rows = np.empty((count, *chosen.shape[1:]), chosen.dtype)
            rows[filled : filled + len(chosen)] = chosen
            filled += len(chosen)
        return np.empty((count, *self.shape[1:]), self.dtype) if rows is None else rows


def held_arrays(archive: zipfile.ZipFile) -> str:
    """What arrays there are, for a message."""
    names = [ascii(name.removesuffix(".npy")[:40]) for name in archive.namelist()]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"the file holds {', '.join(names[:8])}{more}" if names else "the file holds none"


def splits_in(archive: zipfile.ZipFile) -> list[str]:
    """Those of `SPLITS` that have arrays in the file."""
    names = archive.namelist()
    keys = ("images", "labels")
    return [split for split in SPLITS if any(f"{split}_{key}.npy" in names for key in keys)]


def check_same_keys(archive: zipfile.ZipFile) -> None:
    """Refuse names, or patients, of some splits alone, and patients that cannot be compared.

    Raises:
        InputError: a split lacks them, or one has patients as text and another as numbers.
    """
    for key in ("names", "patients"):
        present = [split for split in SPLITS if f"{split}_{key}.npy" in archive.namelist()]
        if 0 < len(present) < len(SPLITS):
            raise InputError(f"of {key} there are only those of {', '.join(present)}")
    names = [f"{split}_patients" for split in SPLITS]
    patients = [NpzArray(archive, name) for name in names if f"{name}.npy" in archive.namelist()]
    for array in patients[1:]:
        if (array.dtype.kind == "U") != (patients[0].dtype.kind == "U"):
            raise ArrayError(
                f"{patients[0].about} and {array.about}: a patient who is in both is not found; "
                "wanted is the same type in all splits",
                "k.endswith('patients')",
                "v.astype(int)",
                "if all patients are numbers",
            )


def quoted(path: Path) -> str:
    """A path as a word of a command line, on every system."""
    return f'"{path}"' if " " in str(path) else str(path)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
