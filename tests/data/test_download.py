"""Downloads against a local server that misbehaves as each test tells it to."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT

from chestlab.data import download
from chestlab.data.download import DownloadError, fetch
from chestlab.files.errors import InputError

BODY = random.Random(0).randbytes(300_000)
OTHER_BODY = random.Random(1).randbytes(250_000)
MD5 = "md5:" + hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
BEGINNING = SHA256[:15]  # as torchvision's file names have it
HALF = len(BODY) // 2


class Server(ThreadingHTTPServer):
    """Answers request number i with ``script[i]``, and with the whole file after the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = []
        self.ranges = []  # the Range header of each request, None where there was none
        self.asked = threading.Event()
        self.go_on = threading.Event()  # lets answers that hang end
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"
        self.order = threading.Lock()

    def handle_error(self, request, client_address) -> None:
        pass  # clients that hang up are what these tests are about


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with self.server.order:
            number = len(self.server.ranges)
            self.server.ranges.append(self.headers["Range"])
        self.server.asked.set()
        script = self.server.script
        (script[number] if number < len(script) else serve())(self)

    def log_message(self, *arguments) -> None:
        pass


def serve(
    body: bytes = BODY,
    *,
    ranges: bool = True,
    send: int | None = None,
    hang: bool = False,
    shift: int = 0,
):
    """A file, of which only the first ``send`` bytes asked for are sent before it closes, or
    hangs until told to go on; ``shift`` makes a continuation begin at the wrong byte."""

    def answer(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        first = int(asked[1]) if asked and ranges else 0
        if first >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.end_headers()
            return
        first += shift if first else 0
        handler.send_response(206 if first else 200)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(body) - first))
        handler.end_headers()
        handler.wfile.write(body[first:] if send is None else body[first : first + send])
        if hang:
            handler.server.go_on.wait(30)
            handler.wfile.write(body[first + send :])

    return answer


def status(code: int, **headers: str):
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def trickle(handler: Handler) -> None:
    """One byte now and then: every single read succeeds, yet the file would take for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    for byte in BODY:
        handler.wfile.write(bytes([byte]))
        if handler.server.go_on.wait(0.05):
            return


def hang_before_headers(handler: Handler) -> None:
    handler.server.go_on.wait(30)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def destination(tmp_path) -> Path:
    return tmp_path / "data" / "file.bin"


def get(server: Server, destination: Path, checksum: str = MD5, **options) -> Path:
    return fetch(server.url, destination, checksum, **{"backoff_seconds": 0.01, **options})


def assert_only(destination: Path, body: bytes = BODY) -> None:
    """The file is whole and nothing but its lock lies beside it."""
    assert destination.read_bytes() == body
    left = {path.name for path in destination.parent.iterdir()}
    assert left - {destination.name + ".lock"} == {destination.name}


def start_process(server: Server, destination: Path) -> subprocess.Popen:
    code = "import sys, pathlib; from chestlab.data.download import fetch; "
    code += "fetch(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3])"
    return subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(destination), MD5],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_plain_download_makes_the_folder_and_says_one_line(server, destination, capsys):
    assert get(server, destination) == destination
    assert_only(destination)
    assert server.ranges == [None]
    assert capsys.readouterr().err == f"downloading {server.url} to '{destination}'\n"


def test_progress_bar_on_a_terminal(server, destination, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    get(server, destination)
    assert "100%" in capsys.readouterr().err


def test_sound_file_needs_no_request(server, destination):
    get(server, destination)
    get(server, destination)
    get(server, destination, SHA256)
    get(server, destination, BEGINNING)
    assert len(server.ranges) == 1


def test_broken_file_is_replaced_where_the_beginning_of_the_checksum_is_known(server, destination):
    destination.parent.mkdir()
    destination.write_bytes(b"broken")
    get(server, destination, BEGINNING)
    assert_only(destination)


def test_broken_file_is_replaced_only_by_a_sound_one(server, destination):
    destination.parent.mkdir()
    destination.write_bytes(b"broken")
    server.script = [status(404)]
    with pytest.raises(DownloadError):
        get(server, destination)
    assert destination.read_bytes() == b"broken"
    get(server, destination)
    assert_only(destination)


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_busy_host_is_asked_again(server, destination, code):
    server.script = [status(code, Retry_After="0"), status(code)]
    get(server, destination)
    assert_only(destination)
    assert len(server.ranges) == 3


def test_always_busy_host_is_given_up(server, destination):
    server.script = [status(503)] * 9
    with pytest.raises(DownloadError, match="503"):
        get(server, destination, attempts=3)
    assert len(server.ranges) == 3


def test_waits_grow_and_stay_within_a_minute(server, destination, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    server.script = [
        status(503),
        status(503),
        status(503, Retry_After="7"),
        status(503, Retry_After=soon),
        status(503, Retry_After="whenever"),
    ]
    get(server, destination, attempts=6, backoff_seconds=1)
    assert waits == [1, 2, 7, 60, 16]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusal_is_not_repeated(server, destination, code):
    server.script = [status(code)] * 9
    with pytest.raises(DownloadError) as caught:
        get(server, destination)
    message = str(caught.value)
    assert str(code) in message and "\n" not in message
    assert server.url in message and str(destination) in message
    assert len(server.ranges) == 1
    assert not destination.exists()


def test_stall_in_the_body_is_continued(server, destination):
    server.script = [serve(send=HALF, hang=True)]
    get(server, destination, stall_seconds=0.5)
    assert_only(destination)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_stall_before_the_headers(server, destination):
    server.script = [hang_before_headers]
    get(server, destination, stall_seconds=0.5)
    assert_only(destination)


def test_trickle_counts_as_a_stall(server, destination):
    server.script = [trickle] * 2
    with pytest.raises(DownloadError, match=r"only \d+ bytes came"):
        get(server, destination, stall_seconds=0.5, attempts=2)


def test_truncated_body_is_continued(server, destination):
    server.script = [serve(send=HALF)]
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_progress_starts_the_count_of_attempts_anew(server, destination):
    server.script = [serve(send=30_000), status(503)] * 8
    get(server, destination, attempts=2)
    assert_only(destination)


def test_truncated_body_without_ranges_starts_over(server, destination):
    server.script = [serve(send=HALF, ranges=False), serve(ranges=False)]
    get(server, destination)
    assert_only(destination)


def test_host_that_always_breaks_off_at_the_same_byte_is_given_up(server, destination):
    server.script = [serve(send=HALF, ranges=False)] * 99
    with pytest.raises(DownloadError, match="connection ended after 150,000 of 300,000 bytes"):
        get(server, destination, attempts=3)
    assert len(server.ranges) == 4


@pytest.mark.parametrize("checksum", [MD5, BEGINNING])
def test_wrong_bytes_once(server, destination, checksum):
    server.script = [serve(OTHER_BODY)]
    get(server, destination, checksum)
    assert_only(destination)
    assert server.ranges == [None, None]


@pytest.mark.parametrize("checksum", [MD5, BEGINNING])
def test_wrong_bytes_always(server, destination, checksum):
    server.script = [serve(OTHER_BODY)] * 9
    with pytest.raises(DownloadError) as caught:
        get(server, destination, checksum)
    assert checksum.split(":")[1] in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.ranges) == 2
    assert {path.name for path in destination.parent.iterdir()} <= {f"{destination.name}.lock"}


def test_continuation_of_a_damaged_part_is_repaired(server, destination):
    destination.parent.mkdir()
    Path(f"{destination}.part").write_bytes(bytes(HALF))
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("extra", [0, 100])
def test_part_that_is_already_whole_or_too_long(server, destination, extra):
    destination.parent.mkdir()
    Path(f"{destination}.part").write_bytes(BODY + bytes(extra))
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [f"bytes={len(BODY) + extra}-", None][: 2 if extra else 1]


def test_file_that_changed_on_the_host_is_had_whole(server, destination):
    """The joined bytes of two files have the wrong checksum."""
    server.script = [serve(OTHER_BODY, send=HALF)]
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_continuation_at_the_wrong_byte_starts_over(server, destination):
    server.script = [serve(send=HALF), serve(shift=-5)]
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_host_without_a_name_fails_at_once(server, destination, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    with pytest.raises(DownloadError, match="by hand"):
        fetch("http://no-such-host.invalid/file.bin", destination, MD5, backoff_seconds=0.01)
    assert len(waits) == 1
    assert not destination.exists()


def test_refused_connection_fails_at_once(server, destination, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    with socket.socket() as bound, pytest.raises(DownloadError, match="by hand"):
        bound.bind(("127.0.0.1", 0))  # a port that nobody listens on
        fetch(f"http://127.0.0.1:{bound.getsockname()[1]}/file.bin", destination, MD5)
    assert len(waits) == 1


@pytest.mark.parametrize(
    "url", ["ftp://host/file", "file:///etc/hosts", "host/file", "http://", ""]
)
def test_other_addresses_are_refused(destination, url):
    with pytest.raises(InputError, match="http"):
        fetch(url, destination, MD5)


def test_folder_as_destination(server, tmp_path):
    with pytest.raises(InputError, match="folder"):
        get(server, tmp_path)


def test_full_disk_is_told_before_the_download(server, destination, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match="1,000 bytes free"):
        get(server, destination)
    assert len(server.ranges) == 1


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match="data"):
        get(server, tmp_path / "data" / "file.bin")
    assert not server.ranges


def test_interrupt_keeps_the_part(server, destination, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    server.script = [serve(send=HALF)]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(download.time, "sleep", interrupt)
        get(server, destination)
    get(server, destination)
    assert_only(destination)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_two_processes_share_one_download(server, destination):
    server.script = [serve(send=HALF, hang=True)]
    first = start_process(server, destination)
    assert server.asked.wait(30)
    second = start_process(server, destination)
    assert "another process" in second.stderr.readline()
    server.go_on.set()
    for process in (first, second):
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert_only(destination)
    assert server.ranges == [None]


def test_killed_process_leaves_a_part_to_continue(server, destination):
    server.script = [serve(send=HALF, hang=True)]
    part = Path(f"{destination}.part")
    process = start_process(server, destination)
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=30)
    assert not destination.exists()
    received = part.stat().st_size
    assert received > 0
    get(server, destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={received}-"]
