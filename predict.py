"""Predict X-ray images of your own with a trained network.

    python predict.py IMAGE_OR_FOLDER                     # with the newest finished run
    python predict.py IMAGE_OR_FOLDER --checkpoint RUN    # a run's name, or a file FILE.pth

Prints for each image the class and P(pneumothorax): pneumothorax from the run's threshold on.
Reads PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PGM and AVIF, and DICOM by pydicom; of several
pages the first. A folder's images are known by suffix or content.
An image is prepared as in training: turned upright, colour becomes grey, what is transparent
black; the middle square is reduced (or enlarged, with a warning) to the training's size. Values
of more than 8 bits are scaled by a window, the file's own or a chosen one, which is printed.
Warnings on stderr say why a prediction may be wrong.
Exit status: 0 all good; 1 an image could not be used (a line on stderr says why, the others go
on); 2 nothing to predict, or a wrong flag or checkpoint; 130 Ctrl-C. This is no medical device.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from chestlab.data.grey_values import parse_window
from chestlab.data.image_files import Xray, complain, expanded, find_files, printable, read_xray
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.predictions import with_threshold
from chestlab.files import notebook
from chestlab.files.atomic import check_writable, write_csv
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.notebook import command_line
from chestlab.files.progress import StopSignals
from chestlab.runs.finished_runs import add_checkpoint_flags, pick_checkpoint
from chestlab.training.device import pick_device
from chestlab.training.inference import TrainedModel, load_model
from chestlab.training.likeness import doubts
from networks import network_class

DISCLAIMER = "No medical device: these numbers say nothing about a patient."

NOT_JUDGED = (
    "NOTE: images that are unlike those of the training get no warning: the checkpoint lacks what "
    "is needed (an older version, or fewer than 32 training images); a new training stores it"
)

COLUMNS = ("file", "class", "probability", "threshold", "window", "warnings")

BATCH = 128  # files

LISTED = 10  # files that are not read; the others are counted


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse places that cannot be written to, and overlays without Captum."""
    if options.csv is not None:
        check_writable(options.csv.parent, "--csv")
        if options.csv.is_dir():
            raise InputError(f"--csv '{options.csv}' is a folder; wanted is a file's name")
        if options.csv.exists() and not options.csv.is_file():  # as /dev/null
            raise InputError(f"--csv '{options.csv}' is no regular file; wanted is a file's name")
        if options.csv.exists() and not _is_table(options.csv):
            raise InputError(
                f"--csv '{options.csv}' exists and is no table of predict.py: it would be lost; "
                "give another name"
            )
    if options.overlay is not None:
        from chestlab.training.gradcam import require_captum

        require_captum()
        check_writable(options.overlay, "--overlay")


def _is_table(path: Path) -> bool:
    """Whether a file is what ``--csv`` has written before, or empty."""
    head = ",".join(COLUMNS).encode()
    with path.open("rb") as file:
        return file.read(len(head)) in (head, b"")


class Table:
    """Prints a row per image as it is predicted, and keeps the rows for ``--csv``.

    Args:
        threshold: probability from which class 1 is predicted.
        in_files: whether files are written as well, for which to go on.
    """

    def __init__(self, threshold: float, in_files: bool) -> None:
        self.threshold, self.in_files = threshold, in_files
        self.rows: list[tuple[str, str, float | str, float, str, str]] = []
        self.predicted = self.failed = 0

    def add(self, xray: Xray, p: float) -> None:
        """Print class, probability, file and a chosen window; on stderr, warnings."""
        name, file = CLASS_NAMES[int(p >= self.threshold)], printable(xray.path)
        window, reason = str(xray.window), xray.window.reason
        shown = with_threshold(p, self.threshold, 4)[0]
        chosen = f"  (window {window}: {reason})" if reason else ""
        self.say(f"{name:<12}  {shown:<{3 + len(CLASS_NAMES[1])}}  {file}{chosen}")
        for warning in xray.warnings:
            complain(xray.path, f"WARNING: {warning}")
        self.rows.append((file, name, p, self.threshold, window, "; ".join(xray.warnings)))
        self.predicted += 1

    def say(self, line: str) -> None:
        """Print a line; where files are to come, nothing more once nobody reads it (``| head``)."""
        try:
            print(line, flush=True)
        except BrokenPipeError:
            if not self.in_files:
                raise
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    def add_failed(self, path: Path, reason: str) -> None:
        """Tell on stderr why there is no probability."""
        complain(path, reason)
        self.rows.append((printable(path), "", "", self.threshold, "", reason))
        self.failed += 1


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _find(options: argparse.Namespace, table: Table) -> list[Path]:
    """The files to read; what is not read is told.

    Raises:
        InputError: there is none, and nothing that was named has been told to be missing.
    """
    outputs = [path for path in (options.csv, options.overlay) if path is not None]
    found = find_files(options.images, options.recursive, outputs)
    for path, reason in found.failed.items():
        table.add_failed(path, reason)
    others = list(found.others.items())
    for path, reason in others[:LISTED]:
        complain(path, reason)
    if more := others[LISTED:]:
        print(f"and {count(len(more), 'more file')} of no kind that is read", file=sys.stderr)
    if found.not_entered:
        folders = count(len(found.not_entered), "folder")
        why = "links are not followed" if options.recursive else "--recursive enters them"
        first = printable(found.not_entered[0])
        print(f"not entered: {folders}, as '{first}'; {why}", file=sys.stderr)
    if not found.files and not found.failed:
        places = ", ".join(f"'{printable(path)}'" for path in options.images[:3])
        raise InputError(
            f"there is no image to predict in {places}: wanted are PNG, JPEG, TIFF, BMP, WebP or "
            "DICOM files, or a folder of them"
        )
    if found.others:
        files = count(len(found.others), "file")
        print(f"not read: {files} in folders that are no images", file=sys.stderr)
    return list(found.files)


def _batches(
    files: Sequence[Path], options: argparse.Namespace, size: int, table: Table
) -> Iterator[list[Xray]]:
    """Images that could be read, up to 128 at a time; the others are added to the table."""
    for start in range(0, len(files), BATCH):
        xrays = []
        for path in files[start : start + BATCH]:
            try:
                xray = read_xray(path, size, options.window)
            except InputError as error:
                table.add_failed(path, str(error))
                continue
            if options.invert == "yes":
                xray = replace(xray, seen=255 - xray.seen, shown=255 - xray.shown)
            xrays.append(xray)
        if xrays:
            yield xrays


def _holds(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a file is in the folder itself, not in one of its folders."""
    return folder.resolve() in {path.parent.resolve() for path in files}


def _print_header(table: Table, trained: TrainedModel, inverted: bool) -> None:
    table.say(
        f"{DISCLAIMER}\n{trained.name}, {trained.architecture} trained on {trained.source}"
        f"{', ' + trained.note if trained.note else ''}: {CLASS_NAMES[1]} from threshold "
        f"{trained.threshold:.2f} on, test-time augmentation {trained.tta}, on "
        f"{trained.device.type}{', every image inverted' if inverted else ''}\n"
        f"{'class':<12}  P({CLASS_NAMES[1]})  file"
    )


def predict_files(options: argparse.Namespace) -> int:
    """Predict, print and write what the command line asks for; the exit status.

    Raises:
        InputError: the checkpoint cannot be used, a place cannot be written, or there is nothing
            to predict; nothing has been written.
    """
    _check_outputs(options)
    trained = load_model(pick_checkpoint(options), network_class, pick_device(options.device))
    table = Table(trained.threshold, in_files=bool(options.csv or options.overlay))
    files = _find(options, table)
    if not files:
        return 2
    if options.overlay is not None and _holds(options.overlay, files):
        raise InputError(
            f"--overlay '{options.overlay}' is a folder of the images themselves, some of which "
            "the pictures could replace: name another folder"
        )
    _print_header(table, trained, inverted=options.invert == "yes")
    if trained.likeness is None:
        print(NOT_JUDGED, file=sys.stderr, flush=True)
    overlays = None
    if options.overlay is not None:
        from chestlab.reporting.overlays import Overlays

        overlays = Overlays(options.overlay, trained, DISCLAIMER)
    for xrays in _batches(files, options, trained.size, table):
        images = np.stack([xray.seen for xray in xrays])
        found = doubts(images, trained.likeness, options.invert)
        xrays = [
            replace(xray, warnings=(*xray.warnings, *more))
            for xray, more in zip(xrays, found, strict=True)
        ]
        probabilities = trained.probabilities(images)
        for xray, p in zip(xrays, probabilities.tolist(), strict=True):
            table.add(xray, p)
        if overlays is not None:
            overlays.write(xrays, probabilities)
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.csv, COLUMNS, table.rows)
    if table.failed:
        predicted, failed = count(table.predicted, "image"), table.failed
        print(f"predicted: {predicted}; not predicted: {failed}", file=sys.stderr)
    if trained.phantom:
        table.say(PHANTOM_MARK)
    return int(table.failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", type=expanded, nargs="+", metavar="IMAGE", help="files, folders, or *.png")
    add_checkpoint_flags(parser)
    add("--recursive", action="store_true", help="enter the folders in a folder, too")
    add("--window", metavar="LOW,HIGH", help="values that are black and white: --window=0,4095")
    add(
        "--invert",
        choices=("auto", "yes", "no"),
        default="auto",
        help="yes: invert all; auto: warn of what looks like a negative; no: do not "
        "(default: auto)",
    )
    add("--csv", type=Path, metavar="FILE", help="write the table, with windows and warnings")
    add("--overlay", type=Path, metavar="DIR", help="write a Grad-CAM picture of each image")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    return parser


def _join_window(words: Sequence[str]) -> list[str]:
    """``--window -5,300`` as ``--window=-5,300``: argparse would take its value for a flag."""
    joined: list[str] = []
    for word in words:
        if joined[-1:] == ["--window"] and "," in word:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status, for an error as of `errors.one_line_errors`."""
    with one_line_errors(resume=None), StopSignals():
        options = _parser().parse_args(_join_window(command_line() if argv is None else argv))
        options.images = [path for paths in options.images for path in paths]
        options.window = None if options.window is None else parse_window(options.window)
        return predict_files(options)


if __name__ == "__main__":
    notebook.leave(main())
