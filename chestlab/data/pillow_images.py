"""Image files that Pillow reads, to grey values of the depth that they are stored in."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chestlab.data.file_damage import check_deflated, damage, library_messages, png_chunks
from chestlab.data.grey_values import (
    COLOUR,
    EIGHT_BITS,
    Picture,
    choose_window,
    is_colourful,
    luminance,
)
from chestlab.files.errors import InputError

# Of those that Pillow knows, none that starts another program (EPS) or is no picture (HDF5, MPEG).
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "PPM", "AVIF")

MOST_PIXELS = 50_000_000  # a chest X-ray has some 10 million; each takes some 15 to 30 bytes

ALLOWED_PIXELS = f"allowed are {MOST_PIXELS:,}: save it smaller"

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, PLANAR_CONFIGURATION = 258, 259, 262, 284  # TIFF tags
SAMPLE_FORMAT, UNSIGNED, SIGNED, WHITE_IS_ZERO = 339, 1, 2, 0
DEFLATE = 8, 32946  # compression
PARTS = (273, 279), (324, 325)  # offsets and lengths of strips, and of tiles

NO_IMAGE = (
    "is no image that can be read (PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PGM or DICOM), its "
    "beginning is damaged, or it is of a rare kind: save it as a grey PNG of 8 or 16 bits"
)

STARTS = {
    b"version https://git-lfs": "is a pointer of Git LFS: git lfs pull fetches the image",
    b"<!DOCTYPE": "is a web page, not an image: download it again",
    b"<html": "is a web page, not an image: download it again",
    b"%PDF": "is a PDF: save the picture in it as a grey PNG",
}

_FOREIGN = "B" if sys.byteorder == "little" else "L"
BYTE_ORDERS = {  # of what Pillow calls the layout of 16-bit colours: the opposite
    f"{channels};16{order}": f"{channels};16{opposite}"
    for channels in ("RGB", "RGBX", "RGBA")
    for order, opposite in (("L", "B"), ("B", "L"), ("N", _FOREIGN))
}


def read_picture(path: Path) -> Picture:
    """Read a file by its content, whatever its suffix; of several pages or frames the first.

    Raises:
        InputError: it cannot be read or used; the message is one line without the path.
    """
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    failure = None
    with library_messages() as messages, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Image.open(path, formats=formats) as image:
                check_size(*image.size)
                picture = _picture(image, path)
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError(_no_image(path)) from None
        except Image.DecompressionBombError as error:  # which tells their number alone
            told = re.search(r"\d{9,}", str(error))
            pixels = f"{int(told[0]):,}" if told else f"more than {MOST_PIXELS:,}"
            raise InputError(f"has {pixels} pixels; {ALLOWED_PIXELS}") from None
        except Exception as error:  # damaged files raise nearly any type, as struct.error
            failure = error
    if failure is not None:
        text = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
        reason = " ".join("; ".join([text, *messages]).split())[:200]
        raise InputError(f"cannot be read: {reason}")
    messages += [str(w.message) for w in caught if re.search("trunc|corrupt", str(w.message), re.I)]
    told = (f"may be damaged: {' '.join(text.split())[:200]}" for text in messages)
    return replace(picture, warnings=(*picture.warnings, *damage(path), *told))


def _no_image(path: Path) -> str:
    """What a file is that Pillow does not know, from its first bytes."""
    with path.open("rb") as file:
        start = file.read(32).lstrip()
    if not start:
        return "is empty: copy or download it again"
    return next((what for magic, what in STARTS.items() if start.startswith(magic)), NO_IMAGE)


def check_size(width: int, height: int) -> None:
    """Refuse an image by its header, before its pixels are unpacked.

    Raises:
        InputError: it is too large.
    """
    if width * height > MOST_PIXELS:
        raise InputError(f"has {width} x {height} pixels; {ALLOWED_PIXELS}")


def _picture(image: Image.Image, path: Path) -> Picture:
    notes = []
    tags = getattr(image, "tag_v2", {})
    if tags.get(COMPRESSION) in DEFLATE:
        for offsets, lengths in PARTS:
            check_deflated(path, tags.get(offsets, ()), tags.get(lengths, ()))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a telephone's second picture is a preview
        notes.append(f"has {frames} pages or frames: only the first is read")
    bits, inverted = _stated(image, path)
    deep = _sixteen_bit_channels(image, path)
    if deep is None and (image.mode.startswith("I") or image.mode == "F"):
        deep = np.asarray(ImageOps.exif_transpose(image))
    elif tags.get(SAMPLE_FORMAT) == (SIGNED,) and image.mode == "L":  # Pillow takes -1 for 255
        deep = np.asarray(ImageOps.exif_transpose(image)).view(np.int8).astype(np.int16)
    if deep is not None and tags.get(BITS_PER_SAMPLE) == (32,) and deep.dtype == np.int32:
        unsigned = tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,)
        deep = deep.view(np.uint32) if unsigned else deep  # Pillow takes all for signed
    if deep is None:
        return _eight_bit(ImageOps.exif_transpose(image), notes)
    deep = _transparent_to_black(deep, image)
    if deep.ndim == 3 and deep.shape[-1] == 1:
        deep = deep[..., 0]
    elif deep.ndim == 3:
        notes += [COLOUR] if is_colourful(deep) else []
        deep = luminance(*np.moveaxis(deep, -1, 0))
    return Picture(deep, choose_window(deep, bits), inverted, tuple(notes))


def _eight_bit(image: Image.Image, notes: list[str]) -> Picture:
    """Any mode of 8 bits a channel to grey; what is transparent becomes black."""
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        coloured = image.convert("RGBA")
        _check_opacity(np.asarray(coloured)[..., 3])
        image = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image.alpha_composite(coloured)
    if image.mode not in ("L", "1"):
        image = image.convert("RGB")
        if is_colourful(np.asarray(image)):
            notes.append(COLOUR)
    return Picture(np.asarray(image.convert("L")), EIGHT_BITS, warnings=tuple(notes))


def _transparent_to_black(deep: np.ndarray, image: Image.Image) -> np.ndarray:
    """Values (H, W) or (H, W, 3), with 0 where they are what a PNG calls transparent (tRNS)."""
    transparent = image.info.get("transparency")
    if transparent is None:
        return deep
    opaque = (np.atleast_3d(deep) != transparent).any(-1)
    _check_opacity(opaque)
    return deep * (opaque if deep.ndim == 2 else opaque[..., None])


def _check_opacity(alpha: np.ndarray) -> None:
    if not alpha.any():
        raise InputError("is fully transparent: there is nothing to predict")


def _stated(image: Image.Image, path: Path) -> tuple[int | None, bool]:
    """The depth, where it is stated for the values as they are, and whether 0 is white."""
    if image.format == "PPM":
        return 16, False  # Pillow has scaled the stated white to 65535
    if image.format == "PNG":
        bits = _significant_bits(path)
        return bits if bits is not None and 8 < bits < 16 else None, False
    tags = getattr(image, "tag_v2", {})
    depths = tags.get(BITS_PER_SAMPLE, (8,))
    bits = depths[0] if isinstance(depths, tuple) else depths
    deep = image.mode.startswith("I") or image.mode == "F"  # Pillow inverts those of 8 bits itself
    inverted = deep and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return bits if 8 < bits < 16 else None, inverted


def _significant_bits(path: Path) -> int | None:
    """What a PNG's sBIT chunk says of its first channel (PNG specification, 11.3.2.7)."""
    for kind, content, _ in png_chunks(path):
        if kind == b"sBIT" and content:
            return content[0]
        if kind == b"IDAT":
            break
    return None


def _sixteen_bit_channels(image: Image.Image, path: Path) -> np.ndarray | None:
    """Channels (H, W, C) uint16 of an image with 16 bits in each of several; None of any other.

    Pillow keeps the high byte of each value, which of 12 bits leaves 4. Under the name of the
    other byte order it keeps the low byte.

    Raises:
        InputError: Pillow cannot unpack both.
    """
    tags = getattr(image, "tag_v2", {})
    layout = _layout(image)
    separate = tags.get(PLANAR_CONFIGURATION) == 2
    if separate and max(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 8))) > 8 and image.mode != "CMYK":
        layout = ""
    elif not layout.startswith(("RGB", "LA")) or ";16" not in layout:
        return None
    if layout == "LA;16B":  # its four bytes a pixel are those of an 8-bit RGBA
        halves = _unpacked(path, "RGBA")
        return _over_black(halves[..., 0::2], halves[..., 1::2])
    if layout not in BYTE_ORDERS:
        raise InputError(
            "has 16 bits in each colour, in an order that is not read: save it as a 16-bit grey PNG"
        )
    return _over_black(_unpacked(path, layout), _unpacked(path, BYTE_ORDERS[layout]))


def _layout(image: Image.Image) -> str:
    """Pillow's name for how the pixels lie in the file, as ``RGB;16B``."""
    tiles = getattr(image, "tile", None)
    layout = tiles[0][3] if tiles else ""
    layout = layout[0] if isinstance(layout, tuple) and layout else layout
    return layout if isinstance(layout, str) else ""


def _unpacked(path: Path, layout: str) -> np.ndarray:
    """The channels (H, W, C) uint8 of a file, taken to have this layout."""
    tiles: list[Any] = []
    with Image.open(path, formats=("PNG", "TIFF")) as image:
        for tile in image.tile:
            codec, box, offset, own = tile
            arguments = (layout, *own[1:]) if isinstance(own, tuple) else layout
            changed = codec, box, offset, arguments
            tiles.append(changed if type(tile) is tuple else type(tile)(*changed))  # Pillow < 11
        image.tile = tiles
        return np.asarray(ImageOps.exif_transpose(image))


def _over_black(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Values of two bytes; of those with an opacity in a last channel, over a black ground."""
    values = high.astype(np.uint16) << 8 | low
    if values.shape[-1] in (1, 3):
        return values
    _check_opacity(values[..., -1])
    opacity = values[..., -1:] / np.float32(65535)
    return np.rint(values[..., :-1] * opacity).astype(np.uint16)
