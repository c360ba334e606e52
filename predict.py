"""What a trained network says about X-ray images of your own.

    python predict.py IMAGE_OR_FOLDER... --checkpoint trained_models/efficientchestnet_best.pth

PNG and JPEG are read, 8 or 16 bit, grey or colour; in folders, all such files. Preprocessing,
threshold and test-time augmentation are those the checkpoint stores. An image is made what the
network was trained on: turned upright if its EXIF says so; transparent parts black; colour to
grey; 16 bit to 8 bit over 257 (65535 is white); of a picture that is not square the middle
(MedMNIST does so with its other chest X-rays, PneumoniaMNIST; ChestX-ray14's are square), at most
2:1; then reduced to the size of the training's source images with Pillow's bicubic filter, and
scaled and normalised as in training. A picture smaller than that is refused.

Exit status: 0 all good, 1 a file could not be used (it has a line on stderr, the others go on),
2 nothing to predict, or a wrong flag or checkpoint. This is no medical device.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import notebook_cell
from datareader import CLASS_NAMES
from flags import pick_device
from inference import TrainedModel, load_model
from phantom import PHANTOM_MARK
from storage import InputError, OneLineParser, check_writable, write_csv

DISCLAIMER = "No medical device: these numbers say nothing about a patient."
SUFFIXES = (".png", ".jpg", ".jpeg")
BATCH = 128  # files
MOST_PIXELS = 50_000_000  # a chest X-ray has some 10 million; each takes up to 8 bytes
WIDEST = 2  # long side over short side
SHOWN_SIDE = 448  # px of an image in its Grad-CAM picture


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
        InputError: the file cannot be read or is nothing to be used, in one line without the path.
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
        shown = square.resize((SHOWN_SIDE,) * 2, Image.Resampling.BICUBIC)
    if side > size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return Xray(path, np.array(square), np.array(shown))


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a name that is too long)


def _check(image: Image.Image, size: int) -> None:
    """Refuse by its header what is no X-ray, before anything is unpacked."""
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


def find_files(paths: Sequence[Path], without: Path | None = None) -> Iterator[Path]:
    """Files as named, and the images in folders, in order of their names, each once.

    Args:
        paths: files and folders.
        without: a folder to leave out, where pictures of an earlier call may lie.
    """
    seen = set()
    for path in paths:
        found = _walk(path, without) if path.is_dir() else [path]
        for file in found:
            if file not in seen:
                seen.add(file)
                yield file


def _walk(folder: Path, without: Path | None) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        _complain(Path(error.filename), error.strerror)

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


def _complain(path: Path, reason: str) -> None:
    print(f"{_printable(path)}: {reason}", file=sys.stderr, flush=True)


class Overlays:
    """Writes a Grad-CAM picture per image into a folder, under names that do not collide.

    Args:
        folder: made when the first picture is written.
        trained: the network that is explained.
    """

    def __init__(self, folder: Path, trained: TrainedModel) -> None:
        self.folder, self.trained = folder, trained
        self.taken: set[str] = set()

    def write(self, xrays: Sequence[Xray], probabilities: np.ndarray) -> None:
        """Draw the pictures of a batch.

        Raises:
            InputError: Captum is not installed, or the network has no feature map.
        """
        import visualize
        from explain import enlarged, grad_cam

        trained = self.trained
        predicted = (probabilities >= trained.threshold).astype(int)
        maps = grad_cam(trained, np.stack([xray.seen for xray in xrays]), predicted)
        self.folder.mkdir(parents=True, exist_ok=True)
        for xray, map_, p, k in zip(xrays, maps, probabilities, predicted, strict=True):
            title = (
                f"{_printable(Path(xray.path.name))}\npredicted: {CLASS_NAMES[k]}; probability of "
                f"{CLASS_NAMES[1]} {p:.3f}, threshold {trained.threshold:.2f}\n"
                f"{trained.name} · {trained.architecture}\ntrained on {trained.source}"
            )
            nothing = "" if map_.any() else f"Nothing in the map speaks for {CLASS_NAMES[k]}."
            visualize.draw_overlay(
                xray.shown,
                xray.seen,
                enlarged(map_[None], len(xray.shown))[0],
                self.folder / self._name(xray.path),
                title="\n".join(line for line in (title, trained.note) if line),
                notes=[nothing, DISCLAIMER],
            )

    def _name(self, path: Path) -> str:
        stem, number = f"{path.stem[:100]}_gradcam", 1
        while (name := f"{stem}{f'_{number}' if number > 1 else ''}.png").lower() in self.taken:
            number += 1
        self.taken.add(name.lower())
        return name


def predict_files(options: argparse.Namespace) -> int:
    """Predict, print and write what the command line asks for; the exit status.

    Raises:
        InputError: the checkpoint cannot be used, a place cannot be written, or there is nothing
            to predict; nothing has been written.
    """
    if options.csv is not None:
        check_writable(options.csv.parent, "--csv")
        if options.csv.is_dir():
            raise InputError(f"--csv '{options.csv}' is a folder; wanted is a file's name")
    if options.overlay is not None:
        from explain import require_captum

        require_captum()
        check_writable(options.overlay, "--overlay")
    trained = load_model(options.checkpoint, pick_device(options.device))
    missing = [path for path in options.images if not _exists(path)]
    for path in missing:
        _complain(path, "there is no such file")
    wanted = [path for path in options.images if path not in missing]
    files = list(find_files(wanted, options.overlay))
    if not files:
        raise InputError("there is no PNG or JPEG to predict")
    print(
        f"{DISCLAIMER}\n{trained.name}, {trained.architecture} trained on {trained.source}"
        f"{', ' + trained.note if trained.note else ''}: threshold {trained.threshold:.2f}, "
        f"test-time augmentation {trained.tta}, on {trained.device.type}\n"
        f"{'class':<12}  P({CLASS_NAMES[1]})  file"
    )
    overlays = Overlays(options.overlay, trained) if options.overlay is not None else None
    rows: list[tuple[str, str, float, float]] = []
    for start in range(0, len(files), BATCH):
        xrays = []
        for path in files[start : start + BATCH]:
            try:
                xrays.append(read_xray(path, trained.size))
            except InputError as error:
                _complain(path, str(error))
        if not xrays:
            continue
        probabilities = trained.probabilities(np.stack([xray.seen for xray in xrays]))
        for xray, p in zip(xrays, probabilities.tolist(), strict=True):
            name = CLASS_NAMES[int(p >= trained.threshold)]
            rows.append((_printable(xray.path), name, p, trained.threshold))
            print(f"{name:<12}  {p:<{3 + len(CLASS_NAMES[1])}.4f}  {rows[-1][0]}", flush=True)
        if overlays is not None:
            overlays.write(xrays, probabilities)
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.csv, ("file", "class", "probability", "threshold"), rows)
    if trained.phantom:
        print(PHANTOM_MARK)
    return int(bool(missing) or len(rows) < len(files))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name outside a Windows code page must not end it
            stream.reconfigure(errors="backslashreplace")
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", type=Path, nargs="+", metavar="IMAGE", help="files or folders")
    add("--checkpoint", type=Path, required=True, metavar="FILE.pth", help="of a finished run")
    add("--csv", type=Path, metavar="FILE", help="write a table: file, class, probability")
    add("--overlay", type=Path, metavar="DIR", help="write Grad-CAM pictures; needs captum")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    try:
        return predict_files(parser.parse_args(argv))
    except InputError as error:
        status, message = 2, f"error: {error}"
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        status, message = 1, f"stopped: {error.strerror or error}{where}"
    print(" ".join(message.splitlines()), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    notebook_cell.leave(main())
