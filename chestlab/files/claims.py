"""Work that several processes share, also on several machines: each piece is done by one of them.

A process claims a piece of work by creating a file with O_EXCL, which succeeds for one process
alone: on local disks, on NFS from version 3 on, and on SMB. While it works it renews the file's
time of change. The claim of a process that has died is passed over by creating the file with the
next number, never by removing one: two processes cannot both take it over.

On the machine of the process that died this is known at once, by a lock of the operating system.
Another machine cannot ask for that, and waits until the file has been silent for `SILENT_SECONDS`.
Both times that it compares are the file server's, so that the machines' clocks may differ.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BEAT_SECONDS = 30.0  # between two renewals of a claim

# After which a claim is a dead process's: ten renewals. A renewal can be seen late by as much as
# NFS clients keep a file's times (60 s), or while a file server restarts (90 s).
SILENT_SECONDS = 300.0

PAUSE_SECONDS = 2.0  # before a process that waits for another one looks again

LOCKED_BYTE = 1 << 30  # Windows locks parts of a file; this one is behind all that is read


@contextlib.contextmanager
def claim(path: Path) -> Iterator[str]:
    """Claim a piece of work while the context lasts.

    Whoever has the claim should then look whether the work has been done in the meantime.

    Args:
        path: names the work; the files are called after it, with a number at the end.

    Yields:
        which process is at work on it, in words; empty where it is this one.

    Raises:
        OSError: the folder is missing or may not be written.
    """
    taken = _take(path)
    if isinstance(taken, str):
        yield taken
        return
    number, file = taken
    try:
        with _renewed(_numbered(path, number)):
            yield ""
    finally:
        _give_back(path, number, file)


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Claim what is done in an instant, after waiting for the other processes that do it."""
    while True:
        with claim(path) as holder:
            if not holder:
                yield
                return
        time.sleep(PAUSE_SECONDS / 10)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}{number}")


def _take(path: Path) -> tuple[int, IO[bytes]] | str:
    """Number and open file of a new claim, or the process that has the claim already."""
    number = 0
    while True:
        own = _numbered(path, number)
        try:
            file = own.open("x+b")
        except FileExistsError:
            holder = _holder(own)
            if holder:
                return holder
            number = 0 if holder is None else number + 1
            continue
        # A slow process may come here when the dead one's work was taken over and is done, and
        # all files are gone: the first number may then be another process's.
        if number == 0 or _holder(_numbered(path, number - 1)) == "":
            _sign(file)
            return number, file
        file.close()
        _remove(own)
        number = 0


def _sign(file: IO[bytes]) -> None:
    """Write down whose the claim is; a reader who can read it can also rely on the lock."""
    about = {"locked": _lock(file), "machine": _machine()}
    about |= {"process": os.getpid(), "host": platform.node()}
    file.seek(0)
    file.write(json.dumps(about).encode())
    file.flush()
    os.fsync(file.fileno())


def _holder(path: Path) -> str | None:
    """Which process holds a claim; empty where it has died, None where the file is gone."""
    try:
        with path.open("rb") as file:
            try:
                about = json.loads(file.read())
            except ValueError:  # not written yet
                about = {}
            if about.get("machine") == _machine() and about["locked"]:
                ended = _lock(file, shared=True)  # a machine that slept lets nobody look dead
            else:
                ended = _now(path.parent) - os.fstat(file.fileno()).st_mtime > SILENT_SECONDS
            if ended:
                return ""
    except FileNotFoundError:
        return None
    except PermissionError:
        return f"a process of another user, by '{path}'"
    except OSError as error:
        if error.errno != errno.ESTALE:  # removed on a file server
            raise
        return None
    return f"process {about.get('process', '?')} on {about.get('host', 'some machine')}"


def _lock(file: IO[bytes], shared: bool = False) -> bool:
    """Lock an open file until it is closed or its process dies; whether that was possible."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the disk knows no locks
        return False
    return True


@functools.cache
def _machine() -> str:
    """Names the running system, all of whose processes see each other's locks."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()} {uuid.getnode()}"


def _now(folder: Path) -> float:
    """The time of the disk's own clock, in seconds."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b" ")
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def _give_back(path: Path, number: int, file: IO[bytes]) -> None:
    """Remove a claim's file and those of the dead before it.

    Between its unlocking and its removal the file looks like a dead process's. Until then the
    next number is kept, empty, so that nobody takes over what is about to be free.
    """
    try:
        _numbered(path, number + 1).open("xb").close()
    except OSError:  # this process was taken for dead, or the disk is full
        file.close()
        return
    file.close()
    for own in range(number + 2):  # the next number last
        _remove(_numbered(path, own))


def _remove(path: Path) -> None:
    """Remove a file, which Windows refuses while another process reads it."""
    for _ in range(100):
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            time.sleep(0.01)
        except OSError:
            return
        else:
            return


@contextlib.contextmanager
def _renewed(path: Path) -> Iterator[None]:
    """Context in which a thread renews a claim."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file server that is away for a moment
                os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
