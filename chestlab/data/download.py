"""Downloads over a bad line: stalls, time-outs, busy hosts and files that arrive only in part.

Bytes go to ``<destination>.part`` and become the destination only once they are all there and
have the promised checksum; whatever interrupts a download, the next call continues the part.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from chestlab.files.errors import InputError

CHUNK_BYTES = 1 << 18

MINIMUM_PROGRESS_BYTES = 512  # fewer in stall_seconds, or in a whole attempt, are no progress

LONGEST_WAIT_SECONDS = 60.0

OFFLINE_ATTEMPTS = 2  # a machine without a network is told so at once

USER_AGENT = "chestmnist-download/1"

UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class DownloadError(OSError):
    """No download could be had; one line says why and where the file can be put by hand."""


class _Failure(Exception):
    """One attempt failed; ``retry`` says whether another may do better."""

    def __init__(
        self, reason: str, *, retry: bool = True, offline: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(reason)
        self.retry = retry
        self.offline = offline
        self.wait = wait  # seconds, where the host named them


def fetch(
    url: str,
    destination: Path,
    md5: str | None = None,
    *,
    sha256_prefix: str | None = None,
    stall_seconds: float = 30,
    attempts: int = 5,
    backoff_seconds: float = 1.0,
) -> Path:
    """Download ``url`` to ``destination``, unless a sound file is there already.

    Processes that want the same destination take turns, and the later ones find the file there.

    Args:
        url: an http or https address; proxies are taken from the environment.
        destination: the file to make; its folder is made too. A file that is there with the
            wrong checksum is replaced once the new one is sound.
        md5: expected MD5 in hexadecimal.
        sha256_prefix: how the SHA-256 in hexadecimal must begin.
        stall_seconds: longest wait, in seconds, for a connection and for the next bytes.
        attempts: how many attempts in a row may bring nothing; bytes start the count anew.
        backoff_seconds: wait in seconds after the first failed attempt; it doubles with each
            further one, up to 60 s. A Retry-After from the host takes its place.

    Returns:
        ``destination``.

    Raises:
        InputError: ``url`` is no http or https address, or ``destination`` is a folder.
        DownloadError: no sound file could be had. What arrived stays in the ``.part`` for the
            next call, unless its checksum is wrong.
    """
    destination = Path(destination)
    _check_url(url)
    try:
        if destination.is_dir():
            raise InputError(f"'{destination}' is a folder; a download needs the path of a file")
        if _is_sound(destination, md5, sha256_prefix):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _turn(destination):
            if _is_sound(destination, md5, sha256_prefix):  # another process may have fetched it
                return destination
            if not sys.stderr.isatty():
                _say(f"downloading {url} to '{destination}'")
            part = Path(f"{destination}.part")
            checked = md5 is not None or sha256_prefix is not None
            _receive(url, part, checked, stall_seconds, attempts, backoff_seconds)
            if wrong := _wrong_bytes(part, md5, sha256_prefix):
                # A continuation may have joined two different files: a fresh start decides.
                _say(f"{wrong}; downloading it once more from the start")
                part.unlink()
                _receive(url, part, checked, stall_seconds, attempts, backoff_seconds)
                if wrong := _wrong_bytes(part, md5, sha256_prefix):
                    part.unlink()
                    Path(f"{part}.source").unlink(missing_ok=True)
                    raise _Failure(f"the host sent other bytes than expected: {wrong}")
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(destination)
            Path(f"{part}.source").unlink(missing_ok=True)
            if not sys.stderr.isatty():
                _say(f"downloaded '{destination}' ({destination.stat().st_size:,} bytes)")
    except (_Failure, OSError, NotImplementedError) as error:  # the last: no locks on this disk
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"'{error.filename or destination.parent}': {error.strerror}"
        raise DownloadError(
            f"download of {url} failed: {' '.join(reason.split())}; the file can be put by hand "
            f"at '{destination.absolute()}'"
        ) from error
    return destination


def file_md5(path: Path) -> str:
    """The MD5 of a file in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    return _digest(path, hashlib.md5(usedforsecurity=False))


def _receive(
    url: str,
    part: Path,
    checked: bool,
    stall_seconds: float,
    attempts: int,
    backoff_seconds: float,
) -> None:
    """Bring ``part`` to its full length, in as many attempts as make progress."""
    furthest = _size(part)
    failures = 0
    online = False
    while True:
        offset = 0
        try:
            response, offset, total = _request(url, part, checked, stall_seconds)
            if response is not None:
                with response:
                    _copy(response, part, offset, total, stall_seconds)
            return
        except _Failure as failure:
            if not failure.retry:
                raise
            received = _size(part)
            # After a restart from zero only new ground counts, or a host that always breaks off
            # at the same byte and cannot continue would be asked for ever.
            progress = received - (offset or furthest) >= MINIMUM_PROGRESS_BYTES
            furthest = max(furthest, received)
            failures = 0 if progress else failures + 1
            online = online or not failure.offline
            if failures >= (attempts if online else min(attempts, OFFLINE_ATTEMPTS)):
                raise _Failure(f"{failure} (attempt {failures} without progress)") from failure
            wait = failure.wait
            if wait is None:
                wait = backoff_seconds * 2.0 ** max(failures - 1, 0)
            wait = min(wait, LONGEST_WAIT_SECONDS)
            _say(f"{failure}; {received:,} bytes so far, trying again in {wait:g} s")
            time.sleep(wait)


def _request(
    url: str, part: Path, checked: bool, stall_seconds: float
) -> tuple[http.client.HTTPResponse | None, int, int | None]:
    """Ask for what ``part`` lacks: the response (None: nothing lacks), its offset, the full size.

    ``part`` is emptied here when the response begins at byte zero.
    """
    source = Path(f"{part}.source")  # two lines: where the part is from, and its ETag or date
    known = source.read_text(encoding="latin-1").splitlines() if source.exists() else []
    validator = known[1] if len(known) == 2 and known[0] == url else ""
    # Without a validator only a checksum can show that the continuation belongs to the part.
    offset = _size(part) if validator or checked else 0
    headers = {"User-Agent": USER_AGENT}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=stall_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            if _content_range(error.headers)[1] == offset:
                return None, offset, offset
            part.unlink()
            raise _Failure("the host cannot continue the partial file", wait=0) from error
        raise _Failure(
            f"the host answered {error.code} {error.reason}",
            retry=error.code >= 500 or error.code in (408, 429),
            wait=_retry_after(error.headers),
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _connection_failure(error, stall_seconds) from error

    try:
        etag = response.headers.get("ETag", "")
        date = response.headers.get("Last-Modified", "")
        if response.status == 206 and offset:
            start, total = _content_range(response.headers)
            now = etag.removeprefix("W/") if validator.startswith('"') else date
            if start != offset or (validator and now and now != validator):
                part.unlink(missing_ok=True)
                raise _Failure("the host continued another file than the one begun", wait=0)
            if total is None and response.length is not None:
                total = offset + response.length
        elif response.status == 200:
            offset, total = 0, response.length
            part.write_bytes(b"")  # before the source is noted: old bytes must not get a new ETag
            validator = etag if etag.startswith('"') else date  # a weak ETag promises too little
            source.write_text(f"{url}\n{validator}\n", encoding="latin-1")
        else:
            raise _Failure(f"the host answered {response.status} without a file", retry=False)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - offset > free:
            raise _Failure(
                f"{total - offset:,} bytes are to come and '{part.parent}' has {free:,} bytes free",
                retry=False,
            )
    except BaseException:
        response.close()
        raise
    return response, offset, total


def _copy(
    response: http.client.HTTPResponse,
    part: Path,
    offset: int,
    total: int | None,
    stall_seconds: float,
) -> None:
    """Append the response to ``part`` until it ends."""
    with (
        part.open("ab") as file,
        tqdm(
            desc=part.stem,
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        size, window_size, window_start = offset, offset, time.monotonic()
        while size != total:
            try:
                chunk = response.read1(CHUNK_BYTES)  # read() would sit out a trickle in silence
            except (OSError, http.client.HTTPException) as error:
                raise _connection_failure(error, stall_seconds) from error
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
            size += len(chunk)
            if time.monotonic() - window_start >= stall_seconds:
                if size - window_size < MINIMUM_PROGRESS_BYTES and size != total:
                    raise _Failure(f"only {size - window_size} bytes came in {stall_seconds:g} s")
                window_size, window_start = size, time.monotonic()
    if total is not None and size < total:
        raise _Failure(f"the connection ended after {size:,} of {total:,} bytes")


def _connection_failure(error: Exception, stall_seconds: float) -> _Failure:
    """Say what a failed connection means: a busy line, no network, or a hopeless address."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = str(reason) or type(reason).__name__
    if isinstance(reason, TimeoutError):
        text = f"nothing came from the host in {stall_seconds:g} s"
    elif isinstance(reason, http.client.IncompleteRead):
        text = "the connection ended before the file did"
    hopeless = (str, ssl.SSLCertVerificationError, http.client.InvalidURL)
    offline = isinstance(reason, (socket.gaierror, ConnectionRefusedError)) or (
        isinstance(reason, OSError) and reason.errno in UNREACHABLE
    )
    return _Failure(text, retry=not isinstance(reason, hopeless), offline=offline)


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and full size named by a Content-Range header; None for what it leaves out."""
    match = re.match(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return start and int(start), total and int(total)


def _retry_after(headers: Message) -> float | None:
    """Seconds until the host wants to be asked again, which it gives as a number or a date."""
    value = headers.get("Retry-After", "").strip()
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if value.isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


@contextlib.contextmanager
def _turn(destination: Path) -> Iterator[None]:
    """Hold the lock of ``destination``; the operating system frees it when the process dies."""
    lock = FileLock(f"{destination}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process is downloading '{destination}'; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_sound(path: Path, md5: str | None, sha256_prefix: str | None) -> bool:
    return path.exists() and _wrong_bytes(path, md5, sha256_prefix) is None


def _wrong_bytes(path: Path, md5: str | None, sha256_prefix: str | None) -> str | None:
    """How the bytes of ``path`` differ from those promised, in one line; None if they do not."""
    if md5 is not None:
        received = file_md5(path)
        if received != md5.lower():
            return f"expected md5 {md5.lower()}, received {received}"
    if sha256_prefix is not None:
        received = _digest(path, hashlib.sha256())
        if not received.startswith(sha256_prefix.lower()):
            return f"expected sha256 {sha256_prefix.lower()}..., received {received}"
    return None


def _digest(path: Path, algorithm: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            algorithm.update(chunk)
    return algorithm.hexdigest()


def _check_url(url: str) -> None:
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"'{url}' is no address to download from: http://... or https://...")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
