"""Predict X-ray images of your own with a trained network.

    python predict.py IMAGE_OR_FOLDER                     # with the newest finished run
    python predict.py IMAGE_OR_FOLDER --checkpoint RUN    # a run's name, or a file FILE.pth

Reads PNG and JPEG files, 8 or 16 bit, grey or colour; in folders, all such files. Prints for each
the predicted class and P(pneumothorax), its probability: pneumothorax is predicted from the run's
threshold on, which may be another than 0.5, cardiomegaly below it. Threshold, preprocessing and
test-time augmentation come from the checkpoint.

An image is prepared like those of the training: it is turned upright as its EXIF data say;
transparent parts become black, colour becomes grey, 16 bit become 8 bit by division by 257 (65535
is white); of an image that is not square, at most 2:1, the middle is taken (as MedMNIST does for
PneumoniaMNIST); it is reduced to the size of the training's source images with Pillow's bicubic
filter, then scaled and normalised as in training. A smaller image is refused.

Exit status: 0 all good, 1 a file could not be used (it has a line on stderr, the others go on),
2 nothing to predict, or a wrong flag or checkpoint. This is no medical device.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chestlab.data.image_files import (
    Xray,
    _exists,
    _printable,
    complain,
    expanded,
    find_files,
    read_xray,
)
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.predictions import with_threshold
from chestlab.files import notebook
from chestlab.files.atomic import check_writable, write_csv
from chestlab.files.errors import InputError, OneLineParser
from chestlab.runs.finished_runs import add_checkpoint_flags, pick_checkpoint
from chestlab.training.device import pick_device
from chestlab.training.inference import TrainedModel, load_model
from networks import network_class

DISCLAIMER = "No medical device: these numbers say nothing about a patient."

BATCH = 128  # files


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
        from chestlab.reporting import gradcam_plots
        from chestlab.training.gradcam import enlarged, grad_cam

        trained = self.trained
        predicted = (probabilities >= trained.threshold).astype(int)
        maps = grad_cam(trained, np.stack([xray.seen for xray in xrays]), predicted)
        self.folder.mkdir(parents=True, exist_ok=True)
        for xray, map_, p, k in zip(xrays, maps, probabilities, predicted, strict=True):
            shown, relation, threshold = with_threshold(p, trained.threshold)
            title = (
                f"{_printable(Path(xray.path.name))}\npredicted: {CLASS_NAMES[k]}; "
                f"P({CLASS_NAMES[1]}) {shown} {relation} threshold {threshold}\n"
                f"{trained.name} · {trained.architecture}\ntrained on {trained.source}"
            )
            nothing = "" if map_.any() else f"Nothing in the map speaks for {CLASS_NAMES[k]}."
            gradcam_plots.draw_overlay(
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


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse places that cannot be written to, and overlays without Captum."""
    if options.csv is not None:
        check_writable(options.csv.parent, "--csv")
        if options.csv.is_dir():
            raise InputError(f"--csv '{options.csv}' is a folder; wanted is a file's name")
    if options.overlay is not None:
        from chestlab.training.gradcam import require_captum

        require_captum()
        check_writable(options.overlay, "--overlay")


def predict_files(options: argparse.Namespace) -> int:
    """Predict, print and write what the command line asks for; the exit status.

    Raises:
        InputError: the checkpoint cannot be used, a place cannot be written, or there is nothing
            to predict; nothing has been written.
    """
    _check_outputs(options)
    trained = load_model(pick_checkpoint(options), network_class, pick_device(options.device))
    unusable: set[Path] = set()

    def report(path: Path, reason: str) -> None:
        if path not in unusable:
            unusable.add(path)
            complain(path, reason)

    for path in options.images:
        if not _exists(path):
            report(path, "there is no such file")
    wanted = [path for path in options.images if path not in unusable]
    files = list(find_files(wanted, options.overlay, report))
    if not files and unusable:
        return 2
    if not files:
        raise InputError("there is no PNG or JPEG to predict")
    print(
        f"{DISCLAIMER}\n{trained.name}, {trained.architecture} trained on {trained.source}"
        f"{', ' + trained.note if trained.note else ''}: {CLASS_NAMES[1]} from threshold "
        f"{trained.threshold:.2f} on, test-time augmentation {trained.tta}, on "
        f"{trained.device.type}\n{'class':<12}  P({CLASS_NAMES[1]})  file"
    )
    overlays = Overlays(options.overlay, trained) if options.overlay is not None else None
    rows: list[tuple[str, str, float, float]] = []
    for start in range(0, len(files), BATCH):
        xrays = []
        for path in files[start : start + BATCH]:
            try:
                xrays.append(read_xray(path, trained.size))
            except InputError as error:
                report(path, str(error))
        if not xrays:
            continue
        probabilities = trained.probabilities(np.stack([xray.seen for xray in xrays]))
        for xray, p in zip(xrays, probabilities.tolist(), strict=True):
            name = CLASS_NAMES[int(p >= trained.threshold)]
            rows.append((_printable(xray.path), name, p, trained.threshold))
            shown = with_threshold(p, trained.threshold, 4)[0]
            print(f"{name:<12}  {shown:<{3 + len(CLASS_NAMES[1])}}  {rows[-1][0]}", flush=True)
        if overlays is not None:
            overlays.write(xrays, probabilities)
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.csv, ("file", "class", "probability", "threshold"), rows)
    if trained.phantom:
        print(PHANTOM_MARK)
    return int(bool(unusable))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a name outside a Windows code page must not end it
            stream.reconfigure(errors="backslashreplace")
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", type=expanded, nargs="+", metavar="IMAGE", help="files, folders, or *.png")
    add_checkpoint_flags(parser)
    add(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write the table: file, class, probability, threshold",
    )
    add(
        "--overlay",
        type=Path,
        metavar="DIR",
        help="write a Grad-CAM picture of each image",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    try:
        options = parser.parse_args(argv)
        options.images = [path for paths in options.images for path in paths]
        return predict_files(options)
    except InputError as error:
        status, message = 2, f"error: {error}"
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        status, message = 1, f"stopped: {error.strerror or error}{where}"
    print(" ".join(message.splitlines()), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    notebook.leave(main())
