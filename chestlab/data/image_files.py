"""X-ray pictures in files: finding them in folders, and reading them to 8-bit grey."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chestlab.files.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")

MOST_PIXELS = 50_000_000  # a chest X-ray has some 10 million; each takes up to 8 bytes

SHOWN_SIDE = 448  # px of an image in its Grad-CAM picture
WIDEST = 2  # long side over short side


@dataclass(frozen=True)
class Xray:
    """An image read from a file.

    Attributes:
        path: of the file.
        seen: (S, S) uint8 of the network's source size.
        shown: (H, H) uint8, the same part of the picture in up to 448 px.
    """

    path: Path
    seen: np.ndarray
    shown: np.ndarray


def read_xray(path: Path, size: int) -> Xray:
    """Read a PNG or JPEG as the network's training images were made.

    ChestMNIST was reduced from NIH's 1,024 px in one step (MedMNIST's on_medmnist_plus.md, which
    names no filter); Pillow's bicubic filter is our choice.

    Args:
        path: PNG or JPEG, whatever its suffix.
        size: side in pixels to reduce it to.

    Raises:
        InputError: the file cannot be read or used; the message is one line without the path.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (as below); opening a pipe would wait for ever
        raise InputError("is no regular file" if _exists(path) else "there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; sizes are checked here
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                _check(image, size)
                grey = _grey(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("is neither a PNG nor a JPEG, or its beginning is damaged") from None
    except Image.DecompressionBombError:
        raise InputError(f"has more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:  # damaged files raise nearly any type, from struct.error to OSError
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise InputError(f"cannot be read: {reason or type(error).__name__}") from None
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    square = grey.crop((left, top, left + side, top + side))
    shown = square
    if side > SHOWN_SIDE:
        shown = square.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BICUBIC)
    if side > size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return Xray(path, np.array(square), np.array(shown))


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a name that is too long)


def _check(image: Image.Image, size: int) -> None:
    """Refuse an image by its header, before its pixels are unpacked.

    Raises:
        InputError: it is too large, smaller than ``size``, longer than 2:1, or an animation.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"has {width} x {height} pixels; allowed are {MOST_PIXELS:,}")
    if min(width, height) < size:
        raise InputError(
            f"is {width} x {height} pixels; the network was trained on {size}, and a smaller image "
            "lacks what it looks for"
        )
    if max(width, height) > WIDEST * min(width, height):
        raise InputError(f"is {width} x {height} pixels: longer than {WIDEST}:1")
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise InputError("is an animation")


def _grey(image: Image.Image) -> Image.Image:
    """Any mode that PNG and JPEG have to 8-bit grey."""
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.int64)
        if values.max() < 4096:  # over 257 it would be black; over its maximum, a guess
            raise InputError(
                f"has 16 bits, and its brightest pixel is {values.max()} of 65535: these look like "
                "12-bit values; scale them to 16 or 8 bit first"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image.alpha_composite(coloured)
    if image.mode not in ("L", "1"):
        image = image.convert("RGB")
    return image.convert("L")


def expanded(word: str) -> list[Path]:
    """The paths that a word of the command line means; Windows leaves ``*`` and ``~`` in it."""
    path = Path(word)
    with contextlib.suppress(RuntimeError):  # ~name of a user who does not exist
        path = path.expanduser()
    if _exists(path):
        return [path]
    return sorted(map(Path, glob.glob(str(path)))) or [path]  # noqa: PTH207 (may be absolute)


def find_files(
    paths: Sequence[Path],
    without: Path | None = None,
    report: Callable[[Path, str], None] | None = None,
) -> Iterator[Path]:
    """Files as named, and the images in folders, in order of their names, each once.

    Args:
        paths: files and folders.
        without: a folder to leave out, where pictures of an earlier call may lie.
        report: called with a folder that cannot be read and the reason, by default `complain`.
    """
    seen = set()
    for path in paths:
        files = _walk(path, without, report or complain) if path.is_dir() else [path]
        for file in files:
            if file not in seen:
                seen.add(file)
                yield file


def _walk(
    folder: Path, without: Path | None, report: Callable[[Path, str], None]
) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report(Path(error.filename), error.strerror or str(error))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        if without is not None:
            folders[:] = [n for n in folders if (Path(parent) / n).resolve() != without.resolve()]
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent) / name


def _printable(path: Path) -> str:
    """The path in one line that can be printed and written as UTF-8 anywhere."""
    text = str(path).encode(errors="backslashreplace").decode()
    return " ".join(text.splitlines())


def complain(path: Path, reason: str) -> None:
    print(f"{_printable(path)}: {reason}", file=sys.stderr, flush=True)
