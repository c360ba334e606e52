"""Files that are written whole or not at all, and the folders they go into."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from chestlab.files.errors import InputError

TEMPORARY_SUFFIX = ".tmp"


def atomic_write(path: Path, content: bytes | str | Callable[[IO[bytes]], Any]) -> None:
    """Write ``path`` so that it holds either its old content or all of the new one.

    Args:
        path: destination; its folder must exist.
        content: bytes, text (written as UTF-8 with ``\\n``), or a function that writes to the
            open binary file it is given.

    Raises:
        OSError: the disk is full, or the folder is gone or read-only. ``path`` is untouched and
            no temporary file is left.
    """
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
        Path(temporary).replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not know which file it was for
        raise


def check_writable(folder: Path, flag: str) -> None:
    """Check, without making anything, that ``folder`` exists or could be made and written.

    Raises:
        InputError: the path is impossible, or a parent is not a folder or may not be written.
    """
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
