"""Images that are no upright chest X-rays, by kind, for `unlike.py`; all (N, S, S) uint8.

Made here: noise, patterns, drawings of CT slices and of limbs, and X-rays that are turned, cut or
changed. Read by `predict.py`'s own reader: photographs that scikit-image, scikit-learn and
matplotlib ship, and CT, MR and ultrasound files of pydicom-data (pip install pydicom pydicom-data).
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from chestlab.data.image_files import read_xray
from chestlab.data.phantom import make_phantom
from chestlab.files.errors import InputError

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("horse", "hubble_deep_field", "ihc", "moon", "motorcycle_left", "page", "retina", "rocket"),
    "text",
)
CT = ("CT_small.dcm", "693_UNCI.dcm", "explicit_VR-UN.dcm", "eCT_Supplemental.dcm")
OTHER_SCANS = (
    *("MR_small.dcm", "MR2_UNCI.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm", "emri_small.dcm"),
    *("examples_overlay.dcm", "US1_UNCI.dcm", "examples_rgb_color.dcm", "gdcm-US-ALOKA-16.dcm"),
)
LIMB, CHEST = "RG3_UNCI.dcm", "RG1_UNCI.dcm"  # computed radiography of pydicom-data

DRAWN = 4  # times the size in which drawings are made, then reduced
CROPS = 6  # parts of each photograph, besides the whole


def made(size: int, count: int = 60) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds that are made: noise, patterns, drawings, and the project's phantoms."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    yield "noise, uniform", rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    large = rng.integers(0, 256, (count // 3, 8 * size, 8 * size), dtype=np.uint8)
    yield "noise, of 8 times the size, reduced", _each(large, lambda i: i.resize((size, size)))
    faint = 128 + rng.normal(0, 8, (count, size, size))
    yield "noise, normal, of 8 grey levels", faint.astype(np.uint8)
    smooth = [_smooth(rng, size, sigma) for sigma in (1, 2, 4, 7) for _ in range(count // 4)]
    yield "noise, smoothed by 1 to 7 px of 28", np.stack(smooth)
    slopes = [
        np.cos(angle) * x + np.sin(angle) * y for angle in np.linspace(0, 2 * np.pi, count, False)
    ]
    yield "linear gradients", np.stack([_full_range(slope) for slope in slopes])
    waves = [
        np.sin(2 * np.pi * rng.uniform(1, 8) * (np.cos(a) * x + np.sin(a) * y))
        for a in rng.uniform(0, np.pi, count)
    ]
    yield "stripes", np.stack([_full_range(wave) for wave in waves])
    boards = [((x * n).astype(int) + (y * n).astype(int)) % 2 for n in range(2, 15)]
    yield "checkerboards", np.stack([_full_range(board) for board in boards])
    blobs = [_blob(x, y, rng) for _ in range(count // 2)]
    yield "bright and dark blobs", np.stack([*blobs, *(255 - blob for blob in blobs)])
    yield "CT slices, drawn", np.stack([_ct_slice(size, rng) for _ in range(count)])
    yield "limbs, drawn", np.stack([_limb(size, rng) for _ in range(count)])
    phantoms = make_phantom(size, train=2, val=2, test=5 * count, seed=5)["test_images"]
    yield "phantoms of this project", phantoms


def _full_range(values: np.ndarray) -> np.ndarray:
    return (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


def _smooth(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(rng.normal(size=(size, size)), sigma * size / 28)
    return np.clip(128 + 50 * values / values.std(), 0, 255).astype(np.uint8)


def _blob(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centre, width = rng.uniform(0.4, 0.6, 2), rng.uniform(0.1, 0.4)
    return _full_range(np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2)))


def _reduced(values: np.ndarray, size: int) -> np.ndarray:
    grey = Image.fromarray(np.clip(255 * values, 0, 255).astype(np.uint8))
    return np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC))


def _ct_slice(size: int, rng: np.random.Generator) -> np.ndarray:
    """An ellipse with a rim of fat, often lungs, a spine, organs, and the table below."""
    y, x = np.mgrid[-1 : 1 : DRAWN * size * 1j, -1 : 1 : DRAWN * size * 1j]
    width, height = rng.uniform(0.65, 0.95), rng.uniform(0.45, 0.75)
    radius = (x / width) ** 2 + (y / height) ** 2
    values = np.where(radius < 1, np.where(radius < rng.uniform(0.8, 0.95), 0.5, 0.35), 0.0)
    if rng.random() < 0.6:
        for side in (-1, 1):
            lung = ((x - side * 0.48 * width) / (0.34 * width)) ** 2 + (y / (0.65 * height)) ** 2
            values[lung < 1] = rng.uniform(0.02, 0.1)
    values[x**2 + (y - 0.62 * height) ** 2 < rng.uniform(0.008, 0.02)] = rng.uniform(0.8, 1)
    for _ in range(rng.integers(3, 9)):
        centre = rng.uniform(-0.5, 0.5, 2)
        organ = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < rng.uniform(0.001, 0.03)
        values[organ & (radius < 0.9)] = rng.uniform(0.3, 0.8)
    values[(np.abs(y - height - 0.08) < 0.015) & (np.abs(x) < 0.8)] += 0.3
    return _reduced(values + rng.normal(0, 0.02, values.shape), size)


def _limb(size: int, rng: np.random.Generator) -> np.ndarray:
    """A cylinder of soft tissue with one or two bones, whose cortex is denser than the middle."""
    y, x = np.mgrid[-1 : 1 : DRAWN * size * 1j, -1 : 1 : DRAWN * size * 1j]
    angle, width = rng.uniform(0, math.pi), rng.uniform(0.25, 0.6)
    across = x * math.cos(angle) + y * math.sin(angle)
    along = y * math.cos(angle) - x * math.sin(angle)
    values = np.sqrt(np.clip(1 - (across / width) ** 2, 0, 1)) * rng.uniform(0.3, 0.6)
    for _ in range(rng.integers(1, 3)):
        centre = rng.uniform(-0.4, 0.4) * width
        bone = rng.uniform(0.08, 0.3) * width * (1 + 0.3 * np.abs(along))
        inside = np.clip(1 - ((across - centre) / bone) ** 2, 0, 1)
        values += 0.4 * np.sqrt(inside) + 0.2 * ((inside > 0) & (inside < 0.5))
    return _reduced(0.86 * values + rng.normal(0, 0.01, values.shape), size)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def changed_xrays(images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """X-rays (N, S, S) that are no longer upright, whole or positive."""
    size = images.shape[1]
    quarter = slice(size // 4, size - size // 4)
    bilinear, bicubic = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

    def turned(angle: float) -> np.ndarray:
        return _each(images, lambda image: image.rotate(angle, bilinear))

    yield "X-rays, inverted", 255 - images
    yield "X-rays, turned by 90 degrees", np.rot90(images, axes=(1, 2))
    yield "X-rays, turned by 180 degrees", images[:, ::-1, ::-1]
    yield "X-rays, upside down (mirrored)", images[:, ::-1]
    yield "X-rays, turned by 45 degrees", turned(45)
    yield "X-rays, turned by 15 degrees", turned(15)
    middle = images[:, quarter, quarter]
    yield (
        "X-rays, the middle enlarged twice",
        _each(middle, lambda image: image.resize((size, size), bicubic)),
    )
    yield (
        "X-rays, half as large on black",
        np.pad(
            _each(images, lambda image: image.resize((size - 2 * (size // 4),) * 2, bicubic)),
            ((0, 0), (size // 4,) * 2, (size // 4,) * 2),
        ),
    )
    yield "X-rays, quarters exchanged", np.roll(images, (size // 2, size // 2), (1, 2))


def usable_xrays(images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """X-rays (N, S, S) as other programs leave them: these should pass."""
    size = images.shape[1]

    def jpeg(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=50)
        return Image.open(stream)

    def cropped(image: Image.Image) -> Image.Image:
        edge = round(0.05 * size)
        return image.crop((edge, edge, size - edge, size - edge)).resize((size, size))

    yield "X-rays, mirrored left to right", images[:, :, ::-1]
    yield "X-rays, JPEG of quality 50", _each(images, jpeg)
    yield (
        "X-rays, blurred by 1/50 of the side",
        _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(size / 50))),
    )
    yield (
        "X-rays, sharpened",
        _each(images, lambda image: image.filter(ImageFilter.UnsharpMask(2, 100, 0))),
    )
    yield "X-rays, gamma 2", (255 * (images / 255) ** 2).astype(np.uint8)
    yield "X-rays, gamma 0.5", (255 * (images / 255) ** 0.5).astype(np.uint8)
    yield "X-rays, 5 % cut off each side", _each(images, cropped)
    yield (
        "X-rays, turned by 5 degrees",
        _each(images, lambda image: image.rotate(5, Image.Resampling.BILINEAR)),
    )
    lettered = images.copy()
    lettered[:, size // 28 : size // 9, size // 28 : size // 5] = 255
    yield "X-rays, a white label in the corner", lettered


def files(size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Photographs and scans of installed packages; those that are not there are named on stderr."""
    photographs = list(_photographs())
    whole = list(_read_all(photographs, size))
    parts = [part for path in photographs for part in _parts(path, size)]
    if whole:
        yield "photographs, and parts of them", np.stack(whole + parts)
    for name, names in (
        ("CT slices, files", CT),
        ("MR and ultrasound, files", OTHER_SCANS),
        ("a limb, file", (LIMB,)),
        ("a chest X-ray, file", (CHEST,)),
    ):
        images = list(_read_all(_dicom_files(names), size))
        if images:
            yield name, np.stack(images)


def _photographs() -> Iterator[Path]:
    import matplotlib
    import sklearn.datasets

    yield Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    sklearn_images = Path(sklearn.datasets.__file__).parent / "images"
    yield from (sklearn_images / name for name in ("china.jpg", "flower.jpg"))
    try:
        import skimage.data
    except ImportError:
        print(
            "not measured: scikit-image's photographs (pip install scikit-image)", file=sys.stderr
        )
        return
    folder = Path(skimage.data.__file__).parent
    yield from (path for name in PHOTOGRAPHS for path in sorted(folder.glob(f"{name}.*g")))


def _parts(path: Path, size: int) -> Iterator[np.ndarray]:
    """Random squares of a photograph, three tenths to nine tenths of its shorter side."""
    grey = Image.open(path).convert("RGB").convert("L")
    rng = np.random.default_rng(len(path.name))
    for _ in range(CROPS):
        side = int(min(grey.size) * rng.uniform(0.3, 0.9))
        left, top = (int(rng.integers(0, full - side + 1)) for full in grey.size)
        square = grey.crop((left, top, left + side, top + side))
        yield np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def _dicom_files(names: tuple[str, ...]) -> Iterator[Path]:
    try:
        from pydicom.data import get_testdata_file
    except ImportError:
        print("not measured: DICOM files (pip install pydicom pydicom-data)", file=sys.stderr)
        return
    for name in names:
        path = get_testdata_file(name, download=False)
        if isinstance(path, str):
            yield Path(path)
        else:
            print(f"not measured: {name} (pip install pydicom-data)", file=sys.stderr)


def _read_all(paths: Iterator[Path] | list[Path], size: int) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            yield read_xray(path, size).seen
        except InputError as error:
            print(f"not measured: {path.name} {error}", file=sys.stderr)
