"""Made-up shifts: what a picture from elsewhere could differ in, without a change of the patient.

Every shift of `SHIFTS` has one strength, fixed before any network was judged under it. Lengths are
in pixels of an image of 28 px and grow with the image: a border of 2 px is one of 4 px at 56 px.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

# By name: what is done, a key of `_KINDS`, and how much of it.
SHIFTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "nearest_20": ("resample", {"side": 20, "filter": "nearest"}),
    "box_20": ("resample", {"side": 20, "filter": "box"}),
    "bilinear_20": ("resample", {"side": 20, "filter": "bilinear"}),
    "bicubic_20": ("resample", {"side": 20, "filter": "bicubic"}),
    "lanczos_20": ("resample", {"side": 20, "filter": "lanczos"}),
    "bilinear_14": ("resample", {"side": 14, "filter": "bilinear"}),
    "blur_half": ("blur", {"sd": 0.5}),
    "blur_one": ("blur", {"sd": 1.0}),
    "sharpen": ("sharpen", {"amount": 1.0, "sd": 1.0}),
    "gamma_07": ("gamma", {"power": 0.7}),
    "gamma_14": ("gamma", {"power": 1.4}),
    "window": ("window", {"percent": 2}),
    "contrast_07": ("contrast", {"factor": 0.7}),
    "contrast_13": ("contrast", {"factor": 1.3}),
    "darker": ("brightness", {"added": -40}),
    "brighter": ("brightness", {"added": 40}),
    "jpeg_30": ("jpeg", {"quality": 30}),
    "border_2": ("border", {"width": 2}),
    "border_4": ("border", {"width": 4}),
    "letter_l": ("letter", {"letter": "L"}),
    "letter_r": ("letter", {"letter": "R"}),
    "tilt_2": ("tilt", {"degrees": 2}),
    "tilt_4": ("tilt", {"degrees": 4}),
    "noise": ("noise", {"sd": 10}),
    "inverted": ("inverted", {}),
    "equalized": ("equalized", {}),
}

SEED = 0  # of noise and of the side to which an image is tilted

REFERENCE = 28  # px, side of the images that lengths are of

LETTERS = {  # with the corner they are in: markers name the patient's side, which faces us
    "L": (("#...", "#...", "#...", "#...", "####"), "right"),
    "R": (("###.", "#..#", "###.", "#.#.", "#..#"), "left"),
}


def shifted(images: np.ndarray, name: str, seed: int = SEED) -> np.ndarray:
    """Images as a picture from elsewhere could show them.

    Args:
        images: (N, H, W) uint8.
        name: a key of `SHIFTS`.
        seed: of random numbers; with the same one the result is the same.

    Returns:
        (N, H, W) uint8, a new array.
    """
    kind, strength = SHIFTS[name]
    change, random = _KINDS[kind]
    more = {"rng": np.random.default_rng(seed)} if random else {}
    return change(images, **strength, **more)


def pixels(length: float, images: np.ndarray) -> int:
    """A length in an image of 28 px as whole pixels, one at least, of images (N, H, W)."""
    return max(1, round(length * images.shape[1] / REFERENCE))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Pillow's ``change`` of every image."""
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _resample(images: np.ndarray, side: int, filter: str) -> np.ndarray:
    """Reduce to ``side`` of 28 px, and enlarge again by the same filter."""
    chosen = Image.Resampling[filter.upper()]
    height, width = images.shape[1:]
    share = side / REFERENCE
    small = max(1, round(width * share)), max(1, round(height * share))
    return _each(images, lambda image: image.resize(small, chosen).resize((width, height), chosen))


def _smoothed(images: np.ndarray, sd: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    sd *= images.shape[1] / REFERENCE
    return gaussian_filter(images.astype(np.float64), (0, sd, sd), mode="nearest")


def _blur(images: np.ndarray, sd: float) -> np.ndarray:
    """A Gaussian's standard deviation of ``sd`` px."""
    return _grey(_smoothed(images, sd))


def _sharpen(images: np.ndarray, amount: float, sd: float) -> np.ndarray:
    """Unsharp masking: ``amount`` times what a blur takes away is added."""
    return _grey(images + amount * (images - _smoothed(images, sd)))


def _gamma(images: np.ndarray, power: float) -> np.ndarray:
    """Grey levels in 0..1 to a power; below 1 the image gets brighter."""
    return _grey(255 * (images / 255) ** power)


def _window(images: np.ndarray, percent: float) -> np.ndarray:
    """Stretch each image so that ``percent`` of the pixels are black and as many white."""
    low, high = np.percentile(images, [percent, 100 - percent], axis=(1, 2), keepdims=True)
    return _grey(255 * (images - low) / np.maximum(high - low, 1))


def _contrast(images: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the middle grey times ``factor``."""
    return _grey(127.5 + factor * (images - 127.5))


def _brightness(images: np.ndarray, added: float) -> np.ndarray:
    return _grey(images + float(added))


def _jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, compressed)


def _border(images: np.ndarray, width: float) -> np.ndarray:
    """The outermost ``width`` px black, as where the beam was narrowed."""
    width = pixels(width, images)
    result = np.zeros_like(images)
    inside = slice(width, -width)
    result[:, inside, inside] = images[:, inside, inside]
    return result


def _letter(images: np.ndarray, letter: str) -> np.ndarray:
    """A white letter of 5 x 4 px, 1 px from the upper edge and from that of its corner."""
    rows, corner = LETTERS[letter]
    step = pixels(1, images)
    bitmap = np.kron(np.array([[c == "#" for c in row] for row in rows]), np.ones((step, step)))
    height, width = bitmap.shape
    left = step if corner == "left" else images.shape[2] - step - width
    result = images.copy()
    result[:, step : step + height, left : left + width][:, bitmap == 1] = 255
    return result


def _tilt(images: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Turned to either side at random, bilinear; the corners repeat the pixels of the edge."""
    from scipy.ndimage import rotate

    options = {"axes": (1, 2), "reshape": False, "order": 1, "mode": "nearest"}
    values = images.astype(np.float64)
    left, right = (_grey(rotate(values, angle, **options)) for angle in (degrees, -degrees))
    return np.where(rng.random(len(images))[:, None, None] < 0.5, left, right)


def _noise(images: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise on every pixel, in grey levels."""
    return _grey(images + rng.normal(0, sd, images.shape))


def _inverted(images: np.ndarray) -> np.ndarray:
    """A negative."""
    return 255 - images


def _equalized(images: np.ndarray) -> np.ndarray:
    """Each grey level becomes the share of the image's pixels that are not brighter.

    Pillow's function rounds the number of pixels for each level down: with few pixels a third of
    the image is white.
    """
    result = np.empty_like(images)
    for row, image in enumerate(images):
        not_brighter = np.bincount(image.ravel(), minlength=256).cumsum()
        darkest = not_brighter[image.min()]
        share = (not_brighter - darkest) / max(image.size - darkest, 1)
        result[row] = _grey(255 * share)[image]
    return result


_KINDS: dict[str, tuple[Callable[..., np.ndarray], bool]] = {  # and whether it draws numbers
    "resample": (_resample, False),
    "blur": (_blur, False),
    "sharpen": (_sharpen, False),
    "gamma": (_gamma, False),
    "window": (_window, False),
    "contrast": (_contrast, False),
    "brightness": (_brightness, False),
    "jpeg": (_jpeg, False),
    "border": (_border, False),
    "letter": (_letter, False),
    "tilt": (_tilt, True),
    "noise": (_noise, True),
    "inverted": (_inverted, False),
    "equalized": (_equalized, False),
}
