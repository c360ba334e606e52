"""What a run writes for TensorBoard, an optional library: its history and its pictures."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from chestlab.files.errors import InputError


def require_tensorboard() -> None:
    """Raise `InputError`, saying how to install it, where TensorBoard is not."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard"
        )


class EventLog:
    """The scalars and pictures of one run, for ``tensorboard --logdir``.

    Args:
        folder: of this run alone; events of an earlier run of the name are removed.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(folder)

    def add_epochs(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Write rows of the history, at once; values that are not finite are left out."""
        for row in rows:
            for column, value in row.items():
                if column != "epoch" and math.isfinite(value):
                    self.writer.add_scalar(_tag(column), value, int(row["epoch"]))
        self.writer.flush()

    def add_pictures(self, folder: Path, epoch: int) -> None:
        """Write every PNG of a folder under its name, and close the log."""
        from PIL import Image

        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(path.stem, pixels, epoch, dataformats="HWC")
        self.writer.close()


def _tag(column: str) -> str:
    """``val_loss`` as ``loss/val``, so that one chart holds the splits of a measure."""
    split, _, measure = column.rpartition("_")
    return f"{measure}/{split}" if split else column
