"""Which values of a file's images are black and white, where they are no 8-bit grey values.

One pair of values holds for all images of a file, so that they keep their differences in
brightness.

- Floating-point values lie in 0..1 or in 0..255; half a grey value beyond is rounding. A largest
  value between 1 and 64 fits neither, and is refused.
- Integers in 0..255 are grey values. Above, the depth is told by the values of all images together,
  as of a single picture (`grey_values`). Where values lie beyond it (burnt-in labels), or it begins
  above 0, there is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from chestlab.data.arrays import ArrayError
from chestlab.data.grey_values import EIGHT_BITS, Window, window_of_counts

_HALF_GREY = 0.5  # of 255: it is rounded away

DARK = 64  # of 255: where no pixel of a file is brighter, its values have another scale

_LARGEST_INTEGER = 65535

# Bounds of which the first row beyond is kept, and what is added for floating-point values.
_BOUNDS = {"below": (0, _HALF_GREY / 255), "above 1": (1, _HALF_GREY / 255)}
_BOUNDS |= {"above 255": (255, _HALF_GREY), "above 65535": (_LARGEST_INTEGER, 0)}


@dataclass
class Values:
    """What the images of one split hold, gathered block by block.

    Args:
        name: of the array.
        dtype: of its values.
        about: its name, type and shape.
        where: of `NpzArray.alike`.

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
    where: str
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
        if self.is_float:  # of 16 bits they would not hold the bounds
            lowest, highest = lowest.astype(np.float64), highest.astype(np.float64)
        self.low, self.high = (
            min(self.low, lowest.min().item()),
            max(self.high, highest.max().item()),
        )
        for what, (bound, rounding) in _BOUNDS.items():
            edge = rounding if self.is_float else 0
            if (lowest < -edge).any() if what == "below" else (highest > bound + edge).any():
                values = pixels.astype(np.float64) if self.is_float else pixels
                beyond = values < -edge if what == "below" else values > bound + edge
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
            raise ArrayError(text, self.where, mend, meaning)


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
            grey[0].where,
            "v / (255 if v.max() > 1 else 1)",
        )
    if not grey:
        if high > 0 and all(values.exact[255] for values in splits):
            _refuse_two_values(splits[0])
        return 1
    if high < DARK:
        clip = high < 1.5
        mend, meaning = ("v.clip(0, 1)", "if 1 is white") if clip else (scale, ends)
        unclear = f"up to {high:g}, which is neither the white of 0..1 nor of 0..255"
        grey[0].refuse("above 1", unclear, mend, meaning)
    return 255


def _refuse_two_values(values: Values) -> None:
    text = f"{values.about} and holds only 0 and 1; an X-ray has more than two grey values"
    raise ArrayError(text, values.where, "v.astype('u1') * 255", "if 1 is white")


def _window_of_integers(splits: Sequence[Values]) -> tuple[Window, list[str]]:
    """The window of integers wider than 8 bits, and what may be wrong about it."""
    low, high = int(min(v.low for v in splits)), int(max(v.high for v in splits))
    allowed = f"allowed are 0 to {_LARGEST_INTEGER}"
    scale = f"(v - {float(low)}) / {float(high - low)}"
    ends = f"if {low} is black and {high} white"
    for values in splits:
        values.refuse("below", allowed, scale, ends)
        values.refuse("above 65535", allowed, scale, ends)
    if high == 1:
        _refuse_two_values(splits[0])
    if high <= 255:
        return replace(EIGHT_BITS, reason="values in 0..255"), []
    counts = np.sum([values.counts for values in splits], axis=0)
    levels = np.flatnonzero(counts)
    window = window_of_counts(levels, counts[levels])
    black, white = f"{window.low:g}", f"{window.high:g}"
    warnings = []
    if window.low or high > window.high:
        warnings = [
            f"the images' values lie in {low}..{high}: of these {black} was taken for black and "
            f"{white} for white, and what is beyond was cut off"
        ]
    reason = f" ({window.reason})" if window.reason else ""
    reason = f"values in {black}..{white}{reason} to 8 bits"
    return replace(window, reason=reason), warnings
