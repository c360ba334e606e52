"""Damage to image files that Pillow does not notice: checksums and lengths."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from chestlab.files.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"


def damage(path: Path) -> list[str]:
    """What is wrong with a PNG, WebP or BMP file that may still show its picture.

    Raises:
        InputError: a PNG's checksum is wrong where it concerns the pixels, or a WebP is cut off.
    """
    with path.open("rb") as file:
        start = file.read(12)
    size = path.stat().st_size
    if start.startswith(PNG):
        return _png_damage(path)
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        stated = struct.unpack("<I", start[4:8])[0] + 8
        if size < stated:
            raise InputError(f"is cut off: {size:,} of {stated:,} bytes are there")
        return _unequal(size, stated)
    if start.startswith(b"BM"):
        stated = struct.unpack("<I", start[2:6])[0]
        return _unequal(size, stated) if stated else []
    return []


def _unequal(size: int, stated: int) -> list[str]:
    return [f"may be damaged: it has {size:,} bytes and says {stated:,}"] if size != stated else []


def _png_damage(path: Path) -> list[str]:
    """Compare every chunk's checksum; Pillow leaves those of the pixels out."""
    for kind, content, checksum in png_chunks(path):
        if checksum != zlib.crc32(content, zlib.crc32(kind)):
            if kind[:1].isupper():  # critical, PNG specification 5.4
                raise InputError(f"is damaged: the checksum of its chunk {kind!r} is wrong")
            return [f"may be damaged: the checksum of its chunk {kind!r} is wrong"]
        if kind == b"IEND":
            return []
    return ["may be damaged: it ends before the mark of its end"]


def png_chunks(path: Path) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, content and checksum of each chunk of a PNG; ends where the file does."""
    left = path.stat().st_size - len(PNG)
    with path.open("rb") as file:
        file.seek(len(PNG))
        while left >= 12:
            length, kind = struct.unpack(">I4s", file.read(8))
            left -= 12 + length
            if left < 0:
                return
            yield kind, file.read(length), struct.unpack(">I", file.read(4))[0]


def check_deflated(path: Path, offsets: Sequence[int], lengths: Sequence[int]) -> None:
    """Compare the checksums of deflated strips or tiles; libtiff stops before it reads them.

    Raises:
        InputError: one is wrong, or the data end before it.
    """
    with path.open("rb") as file:
        for offset, length in zip(offsets, lengths, strict=False):
            file.seek(offset)
            left, unpacker = file.read(length), zlib.decompressobj()
            try:
                while left and not unpacker.eof:
                    unpacker.decompress(left, 1 << 20)
                    left = unpacker.unconsumed_tail
            except zlib.error as error:
                raise InputError(f"is damaged: {error}") from None
            if not unpacker.eof:
                raise InputError("is damaged: compressed data end too early")


@contextlib.contextmanager
def library_messages() -> Iterator[list[str]]:
    """Context whose list holds, when it ends, what libraries in C wrote on stderr meanwhile."""
    messages: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            saved = os.dup(2)
        except OSError:  # no stderr, or no place for a file: they appear where they do
            yield messages
            return
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text = file.read().decode(errors="replace")
            messages += dict.fromkeys(" ".join(line.split()) for line in text.splitlines())
