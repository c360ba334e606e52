"""Downloads that continue: pooch checks and stores the file, the transfer itself is done here.

Pooch's own downloader starts from zero after every break and waits for ever on a host that sends
a byte now and then. This one appends to ``<destination>.part`` by HTTP Range requests until the
file is complete, so an interrupted download goes on where it stopped, also in the next process.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import logging
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from chestlab.files.atomic import replace_file
from chestlab.files.errors import InputError

CHUNK_BYTES = 1 << 18

MINIMUM_PROGRESS_BYTES = 512  # fewer in stall_seconds, or in a whole attempt, are no progress

LONGEST_WAIT_SECONDS = 60.0

OFFLINE_ATTEMPTS = 2  # without a network the user is told so at once

UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class DownloadError(OSError):
    """The download failed; the one-line message says why and where to put the file by hand."""


class _Failure(Exception):
    """One attempt failed.

    Attributes:
        retry: another attempt may succeed.
        offline: there seems to be no network.
        wait: seconds to wait before the next attempt, where the host named them.
    """

    def __init__(
        self, reason: str, *, retry: bool = True, offline: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(reason)
        self.retry, self.offline, self.wait = retry, offline, wait


def fetch(
    url: str,
    destination: Path,
    checksum: str,
    *,
    stall_seconds: float = 30,
    attempts: int = 5,
    backoff_seconds: float = 1.0,
) -> Path:
    """Download ``url`` to ``destination``, unless the file is there with the right checksum.

    Processes that want the same destination take turns; the later ones find the file there. If
    the checksum of a complete download is wrong, it is downloaded once more from the start.

    Args:
        url: an http or https address; proxies are taken from the environment.
        destination: the file to make; its folder is made too. A file with another checksum is
            replaced once the new one is complete and checked.
        checksum: ``md5:`` or ``sha256:`` and hexadecimal digits. The first digits of a SHA-256 are
            enough; then a file with another checksum is deleted before the download.
        stall_seconds: longest wait, in seconds, for a connection and for the next bytes.
        attempts: number of consecutive attempts without progress after which to give up.
        backoff_seconds: wait in seconds after the first failed attempt; it doubles with each
            further one, up to 60 s. The host's Retry-After header replaces it.

    Returns:
        ``destination``.

    Raises:
        InputError: ``url`` is no http or https address, or ``destination`` is a folder.
        DownloadError: the file cannot be downloaded or written, or its checksum is wrong. An
            incomplete ``.part`` file stays for the next call.
    """
    import pooch

    if not re.match(r"https?://[^/\s]", url):
        raise InputError(f"'{url}' is no address to download from: http://... or https://...")
    pooch.get_logger().setLevel(logging.ERROR)  # what happens is printed here, in one format
    algorithm, digits = checksum.lower().split(":")
    truncated = algorithm == "sha256" and len(digits) < 64
    part = Path(f"{destination}.part")

    def matches(path: Path) -> bool:
        return pooch.file_hash(str(path), algorithm).startswith(digits)

    def downloader(url: str, output_file: str, _: Any) -> None:
        if not sys.stderr.isatty():
            _print(f"downloading {url} to '{destination}'")
        _receive(url, part, stall_seconds, attempts, backoff_seconds)
        if truncated and not matches(part):
            part.unlink()
            raise ValueError(f"the host sent a file whose {algorithm} is not {digits}...")
        replace_file(part, Path(output_file))  # pooch checks it and moves it to the destination

    try:
        if destination.is_dir():
            raise InputError(f"'{destination}' is a folder; a download needs the path of a file")
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _turn(destination):
            if destination.exists() and not matches(destination):
                size = destination.stat().st_size
                _print(
                    f"'{destination}' ({size:,} bytes) is not the file that it should be (its "
                    f"{algorithm} differs): downloading it anew"
                )
                if truncated:
                    destination.unlink()
            store = pooch.create(
                destination.parent,
                base_url="",
                registry={destination.name: None if truncated else checksum},
                urls={destination.name: url},
                retry_if_failed=1,  # after a wrong checksum
            )
            # pooch's type of a downloader names the parameters of a processor
            store.fetch(destination.name, downloader=downloader)  # pyright: ignore[reportArgumentType]
    except InputError:
        raise
    except (_Failure, ValueError, OSError, NotImplementedError) as error:
        raise _failed(url, destination, error) from error  # the last: no locks on this disk
    return destination


def _failed(url: str, destination: Path, error: Exception) -> DownloadError:
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = f"'{error.filename or destination.parent}': {error.strerror}"
    return DownloadError(
        f"download of {url} failed: {' '.join(reason.split())}; the file can be put by hand "
        f"at '{destination.absolute()}'"
    )


def _receive(
    url: str, part: Path, stall_seconds: float, attempts: int, backoff_seconds: float
) -> None:
    """Append to ``part`` until it is complete.

    Raises:
        _Failure: the host refused, or ``attempts`` attempts in a row made no progress.
    """
    furthest = _size(part)
    failures = 0
    online = False
    while True:
        try:
            _attempt(url, part, stall_seconds)
            return
        except _Failure as failure:
            if not failure.retry:
                raise
            received = _size(part)
            # Bytes received again after a restart from zero are no progress, or a host that
            # always breaks off at the same byte would be asked for ever.
            progress = received - furthest >= MINIMUM_PROGRESS_BYTES
            furthest = max(furthest, received)
            failures = 0 if progress else failures + 1
            online = online or not failure.offline
            if failures >= (attempts if online else min(attempts, OFFLINE_ATTEMPTS)):
                raise _Failure(f"{failure} (attempt {failures} without progress)") from failure
            wait = failure.wait
            if wait is None:
                wait = backoff_seconds * 2.0 ** max(failures - 1, 0)
            wait = min(wait, LONGEST_WAIT_SECONDS)
            _print(f"{failure}; {received:,} bytes so far, trying again in {wait:g} s")
            time.sleep(wait)


def _attempt(url: str, part: Path, stall_seconds: float) -> None:
    """Request the bytes that ``part`` lacks and append them.

    Raises:
        _Failure: the part is not complete afterwards.
    """
    offset = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "chestmnist-download/1"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urllib.request.urlopen(request, timeout=stall_seconds, context=_certificates())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            if _content_range(error.headers)[1] == offset:
                return  # complete already
            part.unlink()
            raise _Failure("the host cannot continue the partial file", wait=0) from error
        raise _Failure(
            f"the host answered {error.code} {error.reason}",
            retry=error.code >= 500 or error.code in (408, 429),
            wait=_retry_after(error.headers),
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _connection_failure(error, stall_seconds) from error
    with response:
        total = response.length
        if response.status == 206 and offset:
            start, total = _content_range(response.headers)
            if start != offset:
                part.unlink()
                raise _Failure("the host continued the file at the wrong byte", wait=0)
        elif response.status == 200:
            offset = 0
            part.write_bytes(b"")
        else:
            raise _Failure(f"the host answered {response.status} without a file", retry=False)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - offset > free:
            raise _Failure(
                f"{total - offset:,} bytes are to come and '{part.parent}' has {free:,} bytes free",
                retry=False,
            )
        _copy(response, part, offset, total, stall_seconds)


def _certificates() -> ssl.SSLContext:
    """The certificates of the system, and Mozilla's from certifi, which pooch brings along.

    Python from python.org for macOS has none of its own, and Windows fetches some only when its own
    programs ask for them.
    """
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _copy(
    response: http.client.HTTPResponse,
    part: Path,
    offset: int,
    total: int | None,
    stall_seconds: float,
) -> None:
    """Append the response to ``part`` until it ends."""
    bar = tqdm(
        desc=part.stem,
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    with part.open("ab") as file, bar:
        size, window_size, window_start = offset, offset, time.monotonic()
        while size != total:
            try:
                chunk = response.read1(CHUNK_BYTES)  # read() returns only once the chunk is full
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
    """Classify a failed connection: a busy line, no network, or an address that cannot work."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = str(reason) or type(reason).__name__
    if isinstance(reason, TimeoutError):
        text = f"nothing came from the host in {stall_seconds:g} s"
    elif isinstance(reason, http.client.IncompleteRead):
        text = "the connection ended before the file did"
    hopeless = (str, ValueError, http.client.InvalidURL)  # ValueError: of certificates, too
    offline = isinstance(reason, (socket.gaierror, ConnectionRefusedError)) or (
        isinstance(reason, OSError) and reason.errno in UNREACHABLE
    )
    return _Failure(text, retry=not isinstance(reason, hopeless), offline=offline)


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and full size from a Content-Range header; None for what it leaves out."""
    match = re.match(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _retry_after(headers: Message) -> float | None:
    """Seconds from a Retry-After header, which holds a number or a date; None without one."""
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
        _print(f"another process is downloading '{destination}'; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
