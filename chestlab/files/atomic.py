"""Files that are written whole or not at all, and the folders they go into."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from chestlab.files.errors import InputError

TEMPORARY_SUFFIX = ".tmp"

WINDOWS = os.name == "nt"

REPLACE_SECONDS = 5.0  # of trying again on Windows, see `replace_file`

# Of a path on Windows, unless long paths are switched on. Source:
# https://learn.microsoft.com/windows/win32/fileio/maximum-file-path-limitation
LONGEST_PATH = 259  # characters

_waiting: list[tuple[Path, Path]] | None = None  # new files and their places, `written_together`

FILE_ROOM = 60  # characters that a run's longest file name adds to its folder while it is written


def atomic_write(path: Path, content: bytes | str | Callable[[IO[bytes]], Any]) -> None:
    """Write ``path`` so that it holds either its old content or all of the new one.

    Args:
        path: destination; its folder must exist.
        content: bytes, text (written as UTF-8 with ``\\n``), or a function that writes to the
            open binary file it is given.

    Raises:
        OSError: the disk is full, the folder is gone or read-only, or ``path`` is a device or a
            pipe, which a file would replace. ``path`` is untouched and no temporary file is left.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no regular file", str(path))
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX
    )
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_UMASK)  # mkstemp makes files private
        if _waiting is None:
            replace_file(Path(temporary), path)
        else:
            _waiting.append((Path(temporary), path))
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not know which file it was for
        raise


@contextlib.contextmanager
def written_together() -> Iterator[None]:
    """Context whose calls of `atomic_write` take their places at its end, in their order.

    After an error inside of it no file has changed. Not for several threads, and not nested.
    """
    global _waiting
    _waiting = waiting = []
    try:
        yield
        _waiting = None
        while waiting:
            replace_file(*waiting[0])
            del waiting[0]
    finally:
        _waiting = None
        for temporary, _ in waiting:
            with contextlib.suppress(OSError):
                temporary.unlink()


def replace_file(source: Path, destination: Path) -> None:
    """Move ``source`` to ``destination``, in the place of a file that is there.

    Windows refuses it while any program has one of the two open. A virus scanner, the search index
    or a cloud drive lets go of a new file soon, so that it is tried again for `REPLACE_SECONDS`.

    Raises:
        OSError: ``source`` is missing, the folder is read-only, or on Windows another program still
            has the file open; ``destination`` is untouched.
    """
    pause, last_try = 0.01, time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            source.replace(destination)
            return
        except PermissionError as error:
            if not WINDOWS:
                raise
            if time.monotonic() > last_try:
                reason = "no permission to replace it, or another program has it open: close it"
                raise PermissionError(error.errno, reason, str(destination)) from None
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def check_writable(folder: Path, flag: str) -> None:
    """Check, without making anything, that ``folder`` exists or could be made and written.

    Raises:
        InputError: the path is impossible or too long, or a parent is not a folder or may not be
            written.
    """
    length = len(str(folder.absolute()))
    if WINDOWS and length + FILE_ROOM > LONGEST_PATH and not _long_paths():
        raise InputError(
            f"{flag} '{folder}': Windows allows paths of {LONGEST_PATH} characters; this folder's "
            f"has {length}, and its files need {FILE_ROOM} more: take a shorter --name, or move "
            "the project nearer to the root of the drive"
        )
    existing = folder.absolute()
    while existing != existing.parent:
        try:
            existing.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            existing = existing.parent
        except OSError as error:  # a name that is too long or not allowed here
            raise InputError(f"{flag} '{folder}': {error.strerror}") from None
    if not existing.is_dir():
        raise InputError(f"{flag} '{folder}': '{existing}' is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{flag} '{folder}': no permission to write in '{existing}'")


def check_picture(path: Path, flag: str) -> None:
    """Check that a picture of this name could be written, as a PNG.

    Raises:
        InputError: it has another ending, or as of `check_writable` of its folder.
    """
    if path.suffix != ".png":
        raise InputError(f"{flag} '{path}': the name of the picture ends in .png")
    check_writable(path.parent, flag)


def _long_paths() -> bool:
    """Whether long paths are switched on in Windows; Python itself allows them."""
    try:
        import winreg

        where = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        # pyright knows what this module has on Windows alone
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, where) as key:  # pyright: ignore
            return winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1  # pyright: ignore
    except (ImportError, OSError):
        return False


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table atomically; floats in full precision, lines ending in ``\\n`` everywhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _current_umask()  # read once at import: changing it later would race with other threads


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder '{folder}': {error.strerror}") from None
