"""X-ray pictures in files: finding them in folders, and reading them to 8-bit grey."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from chestlab.data.dicom import read_dicom
from chestlab.data.grey_values import Picture, Window
from chestlab.data.pillow_images import read_picture
from chestlab.files.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".pgm", ".ppm", ".pnm", ".pbm", ".avif"),
    *DICOM_SUFFIXES,
)
SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0"),
    *(b"GIF8", b"\0\0\0\x0cjP"),
)

SHOWN_SIDE = 448  # px of an image in its Grad-CAM picture
WIDEST = 2  # long side over short side
SMALLEST = 16  # px; of fewer nothing can be told
FLAT_LEVELS, FLAT_SHARE = 16, 0.8  # of 255; the most in 16,362 chest X-rays of NIH is 0.71
PALE = 64  # of 255, from the darkest pixel to the brightest; the least in these is 73


@dataclass(frozen=True)
class Xray:
    """An image read from a file.

    Attributes:
        path: of the file.
        seen: (S, S) uint8 of the network's source size.
        shown: (H, H) uint8, the same part of the picture in up to 448 px.
        window: the values of the file that became black and white.
        warnings: what may make a prediction wrong, a sentence each.
    """

    path: Path
    seen: np.ndarray
    shown: np.ndarray
    window: Window
    warnings: tuple[str, ...] = ()


def read_xray(path: Path, size: int, window: Window | None = None) -> Xray:
    """Read an image file as the network's training images were made.

    ChestMNIST was reduced from NIH's 1,024 px in one step (MedMNIST's on_medmnist_plus.md, which
    names no filter); Pillow's bicubic filter is our choice.

    Args:
        path: DICOM, or what `pillow_images.read_picture` reads, whatever its suffix.
        size: side in pixels to reduce it to.
        window: the values that become black and white; None: as the file says, or chosen.

    Raises:
        InputError: the file cannot be read or used; the message is one line without the path.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (as below); opening a pipe would wait for ever
        raise InputError("is no regular file" if _exists(path) else _missing(path))
    picture = _read(path, window)
    grey = Image.fromarray(picture.grey(window))
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    square = grey.crop((left, top, left + side, top + side))
    shown = square
    if side > SHOWN_SIDE:
        shown = square.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BICUBIC)
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    seen = np.array(square)
    if seen.min() == seen.max():
        used = window or picture.window
        why = ": nothing to predict"
        if picture.values.min() < picture.values.max() and used.reason:
            why = f" through the window {used}: --window LOW,HIGH sets another"
        raise InputError(f"has the same grey ({seen.min()} of 255) everywhere{why}")
    notes = [*picture.warnings, *_doubts(grey.size, seen)]
    if window is None and picture.window.guessed:
        notes.append("has values of unknown range, whose window is guessed: --window sets it")
    return Xray(path, seen, np.array(shown), window or picture.window, tuple(notes))


def _read(path: Path, window: Window | None) -> Picture:
    try:
        kind = _kind(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None
    if kind == "DICOM" or (kind is None and path.suffix.lower() in DICOM_SUFFIXES):
        return read_dicom(path, window)
    return read_picture(path)


def _kind(path: Path) -> str | None:
    """What the first bytes of a file tell it to be: DICOM, a picture, or neither."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return "DICOM"
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and start[15:18] == bytes(3)  # of the header's size, at most 124
    return "picture" if webp or bmp or start.startswith(SIGNATURES) else None


def _doubts(shape: tuple[int, int], seen: np.ndarray) -> Iterator[str]:
    """Why a prediction from ``seen``, the middle of ``shape`` (width, height), may be wrong."""
    (width, height), side = shape, min(shape)
    if side < len(seen):
        tiny = "tiny, " if side < SMALLEST else ""
        yield (
            f"is {tiny}{width} x {height} pixels, enlarged to the training's {len(seen)}: it lacks "
            "what the network looks for"
        )
    if max(shape) > WIDEST * side:
        yield f"is {width} x {height} pixels: only the middle {side} x {side} is looked at"
    pixels = np.concatenate([[0], np.bincount(seen.ravel(), minlength=256).cumsum()])
    within = (pixels[FLAT_LEVELS:] - pixels[:-FLAT_LEVELS]).max() / pixels[-1]
    if within >= FLAT_SHARE:
        yield f"is nearly empty: {within:.0%} of its pixels have about the same grey"
    elif seen.max() - seen.min() < PALE:
        values = f"{seen.min()} to {seen.max()} of 255"
        yield f"has little contrast, greys of {values}: --window LOW,HIGH spreads them"


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a name that is too long)


def _missing(path: Path) -> str:
    """Why there is no file of this name."""
    try:
        return f"is a link to '{printable(path.readlink())}', and there is no such file"
    except OSError:  # it is no link
        return "there is no such file"


def expanded(word: str) -> list[Path]:
    """The paths that a word of the command line means; Windows leaves ``*`` and ``~`` in it."""
    path = Path(word)
    with contextlib.suppress(RuntimeError):  # ~name of a user who does not exist
        path = path.expanduser()
    if _exists(path):
        return [path]
    return sorted(map(Path, glob.glob(str(path)))) or [path]  # noqa: PTH207 (may be absolute)


@dataclass
class Found:
    """What `find_files` found.

    Attributes:
        files: to be read, in order of their names, each once, as it was first spelt.
        failed: what was named, or is a folder, and cannot be read, with the reason.
        others: files in folders that are no images, with the reason.
        not_entered: sub-folders that were left out.
    """

    files: dict[Path, None] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    others: dict[Path, str] = field(default_factory=dict)
    not_entered: list[Path] = field(default_factory=list)


def find_files(
    paths: Sequence[Path], recursive: bool = False, without: Collection[Path] = ()
) -> Found:
    """Files as named, and the images in folders, by their suffix or their first bytes.

    Args:
        paths: files and folders.
        recursive: enter the folders in them, too; links to folders never.
        without: files and folders to leave out, as what an earlier call has written.
    """
    found = Found()
    left_out = {path.resolve() for path in without}
    for path in paths:
        if not _exists(path):
            found.failed[path] = _missing(path)
        elif path.is_dir():
            _walk(path, recursive, left_out, found)
        else:
            found.files[path] = None
    places: dict[Path, Path] = {}
    for path in found.files:  # a link is a file of its own
        places.setdefault(path.parent.resolve() / path.name, path)
    found.files = dict.fromkeys(places.values())
    return found


def _walk(folder: Path, recursive: bool, left_out: Collection[Path], found: Found) -> None:
    def unreadable(error: OSError) -> None:
        found.failed[Path(error.filename)] = error.strerror or str(error)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        inner = [Path(parent) / name for name in sorted(folders) if not name.startswith(".")]
        inner = [path for path in inner if path.resolve() not in left_out]
        entered = [path for path in inner if recursive and not path.is_symlink()]
        found.not_entered += [path for path in inner if path not in entered]
        folders[:] = [path.name for path in entered]
        for name in sorted(names):
            path = Path(parent) / name
            if name.startswith(".") or (left_out and path.resolve() in left_out):
                continue
            if _looks_like_image(path):
                found.files[path] = None
            else:
                found.others[path] = "is no image: left out"


def _looks_like_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    if not path.is_file():
        return False
    try:
        return _kind(path) is not None
    except OSError:
        return True  # reading it tells why


def printable(path: Path) -> str:
    """The path in one line that can be printed and written as UTF-8 anywhere.

    Control characters, as those that rule a terminal, become their codes, as ``\\x1b``.
    """
    text = str(path).encode(errors="backslashreplace").decode()
    text = " ".join(text.splitlines())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def complain(path: Path, reason: str) -> None:
    print(f"{printable(path)}: {reason}", file=sys.stderr, flush=True)
