"""Rebuild the data behind `results/`, `chestmnist_nih_subset_28.npz`, from NIH's public archives.

    python -m studies.nih_subset                 # which archives are needed, and their sizes
    python -m studies.nih_subset --images DIR    # build the file from what lies in DIR

`nih_subset.csv.gz` beside this file lists the images in order, with their splits and labels, and a
checksum of each at 64 px. DIR may hold the images in any folders, NIH's archives as they were
downloaded (they are read without unpacking them), or some of both. The built file is compared with
the one behind `results/`: exit status 0 if all arrays are identical, 1 if the file was written but
they are not (docs/studies.md says why that is to be expected).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from chestlab.data.splits import FINDINGS, SPLITS
from chestlab.files import notebook
from chestlab.files.atomic import atomic_write, check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from studies.nih_archives import (
    SITE,
    archive_table,
    find_sources,
    list_archives,
    read_images,
)

LIST = Path(__file__).with_name("nih_subset.csv.gz")

SIDE = 64  # px to which every image is reduced first; 28 px are made from these


class Checksums(NamedTuple):
    """Of a file behind `results/`: of its bytes, and of its arrays however they are packed."""

    md5: str
    arrays: str


KNOWN = {
    28: Checksums(
        "a79c5f3df8c1046aaa91faacefcdb044",
        "13bc3630cc908cada488e4dc3f9986f38138f2873da99718b9cd48fd694a69cf",
    ),
    64: Checksums(
        "2fcffaeb6f056176a503370ea50db9f2",
        "cb614c034338151b43362269d2e8f5a86eaf0cdb86a66cbd830abf01d4abebb0",
    ),
}


@dataclass(frozen=True)
class Subset:
    """The list of the images, in the order of the file: train, val, test.

    Attributes:
        splits: (N,) name of the split.
        names: (N,) NIH's file names; the first eight characters are the patient.
        labels: (N, 14) uint8 of 0 and 1, columns as in `FINDINGS`.
        means: (N,) mean grey value of the image at 64 px, 0 to 255, two decimals.
        checksums: (N,) CRC-32 of the image's pixels at 64 px.
    """

    splits: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    means: np.ndarray
    checksums: np.ndarray


def read_subset() -> Subset:
    """Read the list of the images, `LIST`."""
    with gzip.open(LIST, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    findings = [row["labels"].split("|") for row in rows]
    return Subset(
        splits=np.array([row["split"] for row in rows]),
        names=np.array([row["name"] for row in rows]),
        labels=np.array([[name in present for name in FINDINGS] for present in findings], np.uint8),
        means=np.array([float(row["mean"]) for row in rows]),
        checksums=np.array([int(row["crc32"], 16) for row in rows]),
    )


def reduce_image(content: bytes) -> np.ndarray:
    """(64, 64) uint8 of a PNG: bilinear sampling without anti-aliasing, rounded to the nearest.

    From NIH's 1,024 px a pixel is the mean of the 2 x 2 pixels in the middle of its 16 x 16. Some
    of NIH's images are RGBA; their channels are equal and opaque.

    Raises:
        InputError: no 8-bit image, not square, or below 64 px; one line without the name.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode not in ("L", "LA", "RGB", "RGBA", "P"):
                raise InputError(f"is a PNG of mode {image.mode}; NIH's have 8 bits")
            if image.width != image.height or image.width < SIDE:
                raise InputError(
                    f"is {image.width} x {image.height} px; NIH's are 1024 x 1024, and smaller "
                    f"copies must be square and have {SIDE} px"
                )
            grey = np.array(image.convert("L"))
    except InputError:
        raise
    except Exception as error:  # damaged files raise nearly any type, from struct.error to OSError
        raise InputError(f"is no sound PNG ({' '.join(str(error).split())[:100]})") from None
    pixels = torch.from_numpy(grey)[None, None].float()
    small = torch.nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear")
    return (small[0, 0] + 0.5).floor().to(torch.uint8).numpy()


def collect(folder: Path, subset: Subset, missing_list: Path | None) -> np.ndarray:
    """(N, 64, 64) uint8: all images of ``subset``, read from ``folder``.

    Args:
        folder: of ``--images``.
        subset: the list.
        missing_list: a file to write the names of missing images to, one a line.

    Raises:
        InputError: images are missing or cannot be used, or an archive is damaged.
    """
    names = subset.names.tolist()
    row_of = {name: row for row, name in enumerate(names)}
    sources = find_sources(folder, row_of.keys())
    refuse_missing(sources.absent(names), folder, missing_list)

    images = np.zeros((len(names), SIDE, SIDE), np.uint8)
    unread = dict.fromkeys(names)
    for name, path, content in read_images(sources, row_of.keys()):
        try:
            images[row_of[name]] = reduce_image(content)
        except InputError as error:
            raise InputError(f"{name} (in '{path}') {error}") from None
        del unread[name]
        done = len(names) - len(unread)
        if done % 1000 == 0:
            print(f"{done:,} of {len(names):,} images", flush=True)
    refuse_missing(list(unread), folder, missing_list)
    return images


def refuse_missing(missing: Sequence[str], folder: Path, missing_list: Path | None) -> None:
    """Refuse a folder that lacks images; ``missing_list`` is written first, if asked for.

    Raises:
        InputError: ``missing`` is not empty; the message says which archives to fetch.
    """
    if not missing:
        return
    advice = "--missing FILE writes their names"
    if missing_list is not None:
        write_names(missing_list, missing)
        advice = f"their names are in '{missing_list}'"
    archives = ", ".join(
        f"{archive.name} ({archive.gigabytes}; {count:,})"
        for archive, count in list_archives(missing)
    )
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    raise InputError(
        f"--images '{folder}': {len(missing):,} images are missing ({shown}); {advice}. "
        f"{SITE} has them in {archives}"
    )


def write_names(path: Path, names: Sequence[str]) -> None:
    """Write names of images, one a line."""
    atomic_write(path, "".join(f"{name}\n" for name in names))


def make_arrays(images: np.ndarray, subset: Subset, size: int) -> dict[str, np.ndarray]:
    """The arrays of the npz file, in its order.

    Args:
        images: (N, 64, 64) uint8, in the order of ``subset``.
        subset: the list.
        size: 64, or 28: each image is reduced with Pillow's bicubic filter.
    """
    if size != SIDE:
        shape, bicubic = (size, size), Image.Resampling.BICUBIC
        reduced = [np.asarray(Image.fromarray(image).resize(shape, bicubic)) for image in images]
        images = np.stack(reduced)
    arrays = {}
    for split in SPLITS:
        rows = subset.splits == split
        arrays[f"{split}_images"] = images[rows]
        arrays[f"{split}_labels"] = subset.labels[rows]
        arrays[f"{split}_names"] = subset.names[rows]
    return arrays


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Checksum of the bytes of all arrays, in order: the same however a file is packed."""
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def verdict(content: bytes, arrays: Mapping[str, np.ndarray], size: int) -> tuple[bool, str]:
    """Whether a built file holds the arrays of the file behind `results/`, and the words for it.

    Args:
        content: the bytes of the file.
        arrays: in it.
        size: of its images in px.
    """
    known = KNOWN[size]
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 == known.md5:
        return True, f"identical to the file behind results/ (md5 {md5})"
    if arrays_sha256(arrays) == known.arrays:
        return True, (
            f"all arrays identical to those behind results/ (sha256 {known.arrays[:16]}...); the "
            f"md5 of the file is {md5}, not {known.md5}: zlib or numpy of another version packed it"
        )
    return False, f"not the file behind results/: md5 {md5}, not {known.md5}"


def describe_difference(images: np.ndarray, subset: Subset) -> str:
    """How far ``images`` (N, 64, 64) are from those behind `results/`."""
    checksums = np.array([zlib.crc32(image.tobytes()) for image in images])
    same = int((checksums == subset.checksums).sum())
    shift = np.abs(images.mean((1, 2)) - subset.means)
    largest = int(shift.argmax())
    return (
        f"{same:,} of {len(images):,} images are identical at {SIDE} px; the mean grey value (0 to "
        f"255) of an image is off by {np.median(shift):.2f} in the median and by "
        f"{shift[largest]:.2f} at most ({subset.names[largest]})"
    )


def rebuild(options: argparse.Namespace) -> str:
    """Build the files asked for; returns how their images differ from the known ones, if they do.

    Raises:
        InputError: a file is there already, or images are missing or cannot be used. Nothing has
            been written but the list of missing images.
    """
    check_writable(options.out, "--out")
    sizes = sorted(set(options.size))
    paths = {size: options.out / f"chestmnist_nih_subset_{size}.npz" for size in sizes}
    for path in paths.values():
        if path.exists() and not options.overwrite:
            raise InputError(f"'{path}' is there already; --overwrite replaces it")
    subset = read_subset()
    images = collect(options.images, subset, options.missing)

    make_folder(options.out)
    all_same = True
    for size, path in paths.items():
        arrays = make_arrays(images, subset, size)
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        atomic_write(path, packed.getvalue())
        same, words = verdict(packed.getvalue(), arrays, size)
        all_same &= same
        print(f"'{path}': {words}", flush=True)
    return "" if all_same else describe_difference(images, subset)


def main(argv: Sequence[str] | None = None) -> None:
    """Print which archives are needed, or build the files from them."""
    parser = OneLineParser(prog="python -m studies.nih_subset", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder with NIH's images or archives, at any depth (default: say which are needed)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        choices=sorted(KNOWN),
        default=[28],
        help="of the images in px; both may be given (default: 28)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="folder of the file (default: .)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--missing", type=Path, metavar="FILE", help="write the names of missing images there"
    )
    with one_line_errors(resume=None), StopSignals():
        options = parser.parse_args(argv)
        if options.missing is not None and not options.missing.absolute().parent.is_dir():
            raise InputError(f"--missing '{options.missing}': there is no such folder")
        if options.images is None:
            names = read_subset().names.tolist()
            print(f"The images are in these archives of {SITE}\n\n{archive_table(names)}")
            if options.missing is not None:
                write_names(options.missing, names)
            return
        difference = rebuild(options)
        if difference:
            notebook.leave(1, f"written, but not the data behind results/: {difference}")


if __name__ == "__main__":
    main()
