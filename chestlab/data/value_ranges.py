"""Which values of a file's images are black and white, where they are no 8-bit grey values.

One pair of values holds for all images of a file, so that they keep their differences in
brightness.

- Floating-point values lie in 0..1 or in 0..255; half a grey value beyond is rounding. A largest
  value between 1 and 64 fits neither, and is refused.
- Integers in 0..255 are grey values. Above, the largest value tells the depth in bits, whose
  largest value is white. Two cases are told by percentiles instead, with a warning: a depth that
  would leave 98 % of the pixels below half of white (burnt-in labels may be brighter than any pixel
  of an X-ray), and values that begin far above 0 (stored with an offset).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chestlab.data.arrays import ArrayError

_HALF_GREY = 0.5  # of 255: it is rounded away

_DARK = 64  # of 255: where no pixel of a file is brighter, its values have another scale

_LABELS = 0.02  # of the pixels may be burnt-in labels, or dead

_LARGEST_INTEGER = 65535

# Bounds of which the first row beyond is kept, and what is added for floating-point values.
_BOUNDS = {"below": (0, _HALF_GREY / 255), "above 1": (1, _HALF_GREY / 255)}
_BOUNDS |= {"above 255": (255, _HALF_GREY), "above 65535": (_LARGEST_INTEGER, 0)}


@dataclass(frozen=True)
class Window:
    """The values that become black (0) and white (255) of 8-bit images.

    Attributes:
        low: black; values below become black, too.
        high: white.
        about: what the values are, for a message.
    """

    low: float
    high: float
    about: str

    def apply(self, block: np.ndarray) -> np.ndarray:
        """Values of any numeric type to uint8 of the same shape, rounded."""
        if (self.low, self.high) == (0, 255) and block.dtype.kind != "f":
            return block.astype(np.uint8)
        grey = (block.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.rint(grey).clip(0, 255).astype(np.uint8)


@dataclass
class Values:
    """What the images of one split hold, gathered block by block.

    Args:
        name: of the array.
        dtype: of its values.
        about: its name, type and shape.

    Attributes:
        low, high: the smallest and the largest value.
        first: the first row with a value that is ``not finite`` or beyond a bound, and the value.
        dim: the first row of an image whose largest value is above 0 and at most 1, and how many
            such images there are.
        exact: whether rounding to 8 bits loses nothing, by the value that is white.
        counts: pixels by value, of integers in 0..65535.
    """

    name: str
    dtype: np.dtype
    about: str
    low: float = math.inf
    high: float = -math.inf
    first: dict[str, tuple[int, float]] = field(default_factory=dict)
    dim: tuple[int, int] = (0, 0)
    exact: dict[int, bool] = field(default_factory=lambda: {1: True, 255: True})
    counts: np.ndarray = field(default_factory=lambda: np.zeros(_LARGEST_INTEGER + 1, np.int64))

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    def add(self, start: int, block: np.ndarray) -> None:
        """Take in the images of a block whose first row in the source is ``start``."""
        pixels = block.reshape(len(block), -1)
        if self.is_float:
            finite = np.isfinite(pixels)
            if not finite.all():
                self._keep_first("not finite", start, pixels, ~finite)
                pixels = np.where(finite, pixels, 0)
        lowest, highest = pixels.min(1), pixels.max(1)
        self.low, self.high = (
            min(self.low, lowest.min().item()),
            max(self.high, highest.max().item()),
        )
        for what, (bound, rounding) in _BOUNDS.items():
            edge = rounding if self.is_float else 0
            if (lowest < -edge).any() if what == "below" else (highest > bound + edge).any():
                beyond = pixels < -edge if what == "below" else pixels > bound + edge
                self._keep_first(what, start, pixels, beyond)
        dim = np.flatnonzero((highest > 0) & (highest <= 1))
        if len(dim):
            row, count = self.dim
            self.dim = (row if count else start + int(dim[0]), count + len(dim))
        if self.is_float:
            self._check_exact(pixels)
        elif not self.first.keys() & {"below", "above 65535"}:
            self.counts += np.bincount(pixels.ravel().astype(np.int64), minlength=len(self.counts))

    def _keep_first(self, what: str, start: int, pixels: np.ndarray, beyond: np.ndarray) -> None:
        if what not in self.first:
            row, column = np.unravel_index(int(beyond.argmax()), beyond.shape)
            self.first[what] = start + int(row), pixels[row, column].item()

    def _check_exact(self, pixels: np.ndarray) -> None:
        """Note whether the values are whole multiples of a grey value."""
        close = max(1e-3, 255 * float(np.finfo(self.dtype).eps))  # of a grey value
        for white in self.exact:
            if self.exact[white]:
                grey = pixels.astype(np.float64) * (255 / white)
                self.exact[white] = bool((abs(grey - np.rint(grey)) <= close).all())

    def refuse(self, what: str, allowed: str, mend: str, meaning: str = "") -> None:
        """Raise `ArrayError` with the first value that is ``what``, if there is one."""
        if what in self.first:
            row, value = self.first[what]
            text = f"{self.about} and holds {value:g} in image {row}; {allowed}"
            raise ArrayError(text, "images", mend, meaning)


def find_windows(splits: Sequence[Values]) -> tuple[dict[str, Window], list[str]]:
    """The window of each split by the name of its array, and warnings of what may be wrong.

    Raises:
        ArrayError: a value has no place in an image, or their scale would have to be guessed.
    """
    floats = [values for values in splits if values.is_float]
    integers = [values for values in splits if not values.is_float]
    windows: dict[str, Window] = {}
    warnings: list[str] = []
    if floats:
        white = _white_of_floats(floats)
        for values in floats:
            how = "exactly" if values.exact[white] else "rounded"
            windows[values.name] = Window(0, white, f"values in 0..{white}, {how} to 8 bits")
    if integers:
        window, warnings = _window_of_integers(integers)
        windows |= {values.name: window for values in integers}
    for values in splits:
        row, count = values.dim
        if count and windows[values.name].high > 1:
            warnings.append(
                f"{count} images of {values.name} have no value above 1, the first in row {row}: "
                f"they become black, as others reach {windows[values.name].high:g}"
            )
    return windows, warnings


def _white_of_floats(splits: Sequence[Values]) -> int:
    """The value that is white, 1 or 255."""
    low, high = min(v.low for v in splits), max(v.high for v in splits)
    allowed = "allowed are values in 0..1 or in 0..255"
    scale = f"(v - {low}) / {high - low}" if low < 0 else f"v / {high}"
    ends = f"if {low:g} is black and {high:g} white" if low < 0 else f"if {high:g} is white"
    for values in splits:
        black = "if those pixels are black"
        values.refuse("not finite", allowed, "np.where(np.isfinite(v), v, 0)", black)
    for values in splits:
        values.refuse("below", allowed, scale, ends)
    if high > 255 + _HALF_GREY:
        clip = high < 300
        for values in splits:
            mend, meaning = ("v.clip(0, 255)", "if 255 is white") if clip else (scale, ends)
            values.refuse("above 255", allowed, mend, meaning)
    unit = [values for values in splits if "above 1" not in values.first and values.high > 0]
    grey = [values for values in splits if "above 1" in values.first]
    if unit and grey:
        raise ArrayError(
            f"{unit[0].name} lies in 0..1 and {grey[0].name} in 0..{grey[0].high:g}: they have "
            "different scales",
            "images",
            "v / (255 if v.max() > 1 else 1)",
        )
    if not grey:
        return 1
    if high < _DARK:
        clip = high < 1.5
        mend, meaning = ("v.clip(0, 1)", "if 1 is white") if clip else (scale, ends)
        unclear = f"up to {high:g}, which is neither the white of 0..1 nor of 0..255"
        grey[0].refuse("above 1", unclear, mend, meaning)
    return 255


def _window_of_integers(splits: Sequence[Values]) -> tuple[Window, list[str]]:
    """The window of integers wider than 8 bits, and what may be wrong about it."""
    low, high = int(min(v.low for v in splits)), int(max(v.high for v in splits))
    allowed = f"allowed are 0 to {_LARGEST_INTEGER}"
    scale = f"(v - {float(low)}) / {float(high - low)}"
    ends = f"if {low} is black and {high} white"
    for values in splits:
        values.refuse("below", allowed, scale, ends)
        values.refuse("above 65535", allowed, scale, ends)
    if high <= 1:
        text = f"{splits[0].about} and holds only 0 and 1: two grey values"
        raise ArrayError(f"{text} are no X-ray", "images", "v * 255", "if 1 is white")
    if high <= 255:
        dark = [f"the brightest pixel of all images has {high} of 255"] if high < _DARK else []
        return Window(0, 255, "values in 0..255"), dark
    counts = np.sum([values.counts for values in splits], axis=0)
    black, bright = _quantiles(counts, (_LABELS, 1 - _LABELS))
    white, beyond = _white_of_depth(high, bright)
    if black <= white / 4:
        low = 0
    else:  # stored with an offset
        low = low if black - low < (bright - black) / 4 else black
        white, _ = _white_of_depth(high - low, bright - low)
        white += low
    warnings = []
    if low or beyond:
        warnings = [
            f"the images' values lie in {min(v.low for v in splits)}..{high}, which is no usual "
            f"range: by the middle 96 % of the pixels, {low} was taken for black and {white} for "
            "white, and what is beyond was cut off"
        ]
    depth = f"values in {low}..{white}" + ("" if low else f" ({(white + 1).bit_length() - 1} bits)")
    return Window(low, white, f"{depth} to 8 bits"), warnings


def _white_of_depth(high: int, bright: int) -> tuple[int, bool]:
    """The largest value of the depth of images, and whether it is below ``high``.

    Args:
        high: the largest value.
        bright: 98 % of the pixels are not brighter.
    """
    white = 2 ** max(8, high.bit_length()) - 1
    if bright >= white / 2:
        return white, False
    return 2 ** max(8, bright.bit_length()) - 1, True


def _quantiles(counts: np.ndarray, shares: Sequence[float]) -> list[int]:
    """The smallest values that at least these shares of the pixels do not exceed."""
    below = np.cumsum(counts)
    return [int(np.searchsorted(below, share * below[-1])) for share in shares]
