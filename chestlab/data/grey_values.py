"""Pixel values of any depth to 8-bit grey: which value is black, which is white.

Files with more than 8 bits seldom say which value is white: of 10, 12, 14 or 15 bits in 16, of
signed values stored with an offset, of an image whose only white pixels are a label burnt in.
`choose_window` finds it from the values, for every reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from chestlab.files.errors import InputError

LABEL_SHARE = 0.1  # at most, of pixels far above all others: a label burnt in, or dead pixels
PADDING_SHARE = 0.9  # at most, of pixels far below all others: what was masked or added
EMPTY_OCTAVE = 0.001  # share of pixels up to which an octave of values counts as empty
DARKEST = 1 / 16  # of white: up to here the darkest pixel may lie whatever the contrast
COLOURFUL = 32  # of 255: the difference between the channels of a coloured pixel
COLOUR_SHARE = 0.05  # of such pixels, from which on a picture is told to be in colour
COLOUR = "is a colour picture, and X-rays are grey"
PERCENTILES = 0.5, 99.5  # of values of which no bit depth can be told


@dataclass(frozen=True)
class Window:
    """The values that become black and white; those between are scaled linearly.

    Attributes:
        low: becomes 0; what is below, too.
        high: becomes 255; what is above, too. More than ``low``.
        reason: why these, in a few words; empty for the whole range of 8 or 16 bits.
        guessed: neither the file nor its bit depth tells them.
    """

    low: float
    high: float
    reason: str = ""
    guessed: bool = False

    def __str__(self) -> str:
        """LOW,HIGH, as `parse_window` takes it."""
        return f"{self.low:.6g},{self.high:.6g}"


EIGHT_BITS = Window(0, 255)


@dataclass(frozen=True)
class Picture:
    """What a reader of files returns.

    Attributes:
        values: (H, W) grey values as stored, integers or floats.
        window: which of them are black and white.
        inverted: the file says that its lowest values are white.
        warnings: what may make a prediction wrong, a sentence each.
    """

    values: np.ndarray
    window: Window = EIGHT_BITS
    inverted: bool = False
    warnings: tuple[str, ...] = ()

    def grey(self, window: Window | None = None) -> np.ndarray:
        """Grey (H, W) uint8 through ``window``, by default the picture's own."""
        grey = to_grey(self.values, window or self.window)
        return 255 - grey if self.inverted else grey


def parse_window(text: str) -> Window:
    """The window that ``LOW,HIGH`` names.

    Raises:
        InputError: the text is something else, or LOW is not below HIGH.
    """
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"--window '{text}': wanted are two numbers LOW,HIGH, the first the smaller; "
            "for 12-bit values --window 0,4095"
        )
    return Window(low, high, "as --window says")


def to_grey(values: np.ndarray, window: Window) -> np.ndarray:
    """Values (H, W) as uint8: ``low`` is 0, ``high`` is 255, rounded; outside they are clipped."""
    if values.dtype == np.uint8 and (window.low, window.high) == (0, 255):
        return values
    grey = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    grey -= window.low
    grey *= 255 / (window.high - window.low)
    np.clip(grey, 0, 255, out=grey)
    return np.rint(grey, out=grey).astype(np.uint8)


def luminance(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Grey of colours of any depth, with the weights of Pillow's mode L (ITU-R 601-2)."""
    grey = np.multiply(red, 0.299, dtype=np.float32)
    grey += np.multiply(green, 0.587, dtype=np.float32)
    grey += np.multiply(blue, 0.114, dtype=np.float32)
    return np.rint(grey).astype(red.dtype)


def is_colourful(channels: np.ndarray) -> bool:
    """Whether of the pixels (H, W, 3) 5 % have a colour: a coloured label has fewer."""
    step = math.isqrt(channels[..., 0].size // 1_000_000) + 1  # of a large picture, some pixels
    red, green, blue = np.moveaxis(channels[::step, ::step].astype(np.int32), -1, 0)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    white = 255 if channels.dtype == np.uint8 else int(channels.max())
    return float((spread * 255 > COLOURFUL * white).mean()) >= COLOUR_SHARE


def choose_window(values: np.ndarray, bits: int | None = None) -> Window:
    """Which values are black and white.

    8-bit values keep their range. With ``bits``, 0 and the largest value of so many bits, if the
    values fit and use a quarter of it. Else black is 0, or
    the roundest offset below the values, and white the largest value of as many bits as they need
    above it: real X-rays use more than half of their range (all but 2 of the 16,362 of 64 px).
    Few pixels far above the others (a label burnt in) or at one value far below them (padding)
    do not count. Floats in 0..1, -1..1 or 0..255 keep these ranges; others are taken for integers,
    or by percentiles where they span less than 255.

    Args:
        values: (H, W) integers or floats.
        bits: the depth that the file states, if it does not merely say how its numbers are stored.

    Raises:
        InputError: there are NaN or infinite values.
    """
    if values.dtype == np.uint8:
        return EIGHT_BITS
    if not np.isfinite(values).all():
        raise InputError("has values that are not finite (NaN or infinite)")
    if bits is not None and values.min() >= 0 and 2 ** (bits - 2) <= values.max() < 2**bits:
        return Window(0, 2**bits - 1, f"{bits} bits, as the file says" if bits < 16 else "")
    levels, counts = _levels(values)
    content = _without_outliers(levels, counts)
    darkest, brightest = float(content[0]), float(content[-1])
    if values.dtype.kind == "f":
        for low, high in ((0, 1), (-1, 1), (0, 255)):
            if low <= darkest and brightest <= high:
                return Window(low, high, f"floats in {low}..{high}")
    guessed = values.dtype.kind == "f" and bool((values % 1).any())
    if guessed and brightest - darkest < 255:
        low, high = (float(v) for v in np.percentile(values, PERCENTILES))
        reason = "percentiles {} and {} of the values, whose range is unknown".format(*PERCENTILES)
        if low < high:
            return Window(low, high, reason, guessed=True)
    window = _integer_window(darkest, brightest, int(levels[-1]) > brightest)
    return replace(window, guessed=guessed or window.guessed)


def window_of_counts(levels: np.ndarray, counts: np.ndarray) -> Window:
    """The window of many images of one origin, told as `choose_window` tells that of one.

    Args:
        levels: (K,) integers, the values that occur in any image, in order.
        counts: (K,) how many pixels have each.
    """
    content = _without_outliers(levels, counts)
    return _integer_window(float(content[0]), float(content[-1]), levels[-1] > content[-1])


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values that occur, in order, and how many pixels have each; at most 65,536 of them."""
    low, high = values.min(), values.max()
    if values.dtype.kind in "iub" and int(high) - int(low) < 65_536:
        counts = np.bincount((values.astype(np.int64) - int(low)).ravel())
        levels = np.arange(len(counts), dtype=np.int64) + int(low)
    else:
        counts, edges = np.histogram(values, bins=65_536)
        levels = edges[1:].copy()
        levels[0] = edges[0]
    return levels[counts > 0], counts[counts > 0]


def _without_outliers(levels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The levels of the image itself, without those of a burnt-in label and of padding.

    Both stand apart from all others by more than half of the whole range. A label whose edges are
    smoothed is told by an octave of values (from a power of two to the next) that is empty but for
    them.
    """
    pixels = counts.sum()
    if levels[0] >= 0:
        octaves = np.ceil(np.log2(levels.astype(np.float64) + 1)).astype(int)
        share = np.bincount(octaves, weights=counts) / pixels
        for octave in range(9, len(share) - 1):
            if share[octave] <= EMPTY_OCTAVE and share[octave + 1 :].sum() <= LABEL_SHARE:
                levels, counts = levels[octaves < octave], counts[octaves < octave]
                break
    for _ in range(2):
        if len(levels) < 3:
            break
        gaps = np.diff(levels)
        gap = int(gaps.argmax())
        above = counts[gap + 1 :].sum() / pixels
        if 2 * gaps[gap] > levels[-1] - levels[0]:
            if above <= LABEL_SHARE and gap > 0:
                levels, counts = levels[: gap + 1], counts[: gap + 1]
            elif gap == 0 and counts[0] <= PADDING_SHARE * pixels:
                levels, counts = levels[1:], counts[1:]
    return levels


def _integer_window(darkest: float, brightest: float, label: bool) -> Window:
    """The window of integer values, see `choose_window`."""
    top = max(abs(darkest), abs(brightest), 255)
    for power in range(int(top).bit_length() + 1, -1, -1):
        low = math.floor(darkest / 2**power) * 2**power
        bits = max(8, int(brightest - low).bit_length())
        white = 2**bits - 1
        if brightest - darkest >= white / 2 or (low == 0 and darkest <= white * DARKEST):
            break
    else:  # hardly any contrast
        low = min(0, math.floor(darkest))
        bits = max(8, int(brightest - low).bit_length())
        white = 2**bits - 1
    unclear = low > 0 and brightest <= 2 * white + 1  # or above 0 with a bit more, and pale
    if unclear and bits % 2:  # scanners have even depths
        low, bits, white, unclear = 0, bits + 1, 2 * white + 1, False
    if (low, bits) == (0, 16) and not label:
        return Window(0, white)
    reason = f"{bits}-bit values" + (f" above {low}" if low else "")
    reason += " and a few far above, a label" if label else ""
    return Window(low, low + white, reason, guessed=unclear)
