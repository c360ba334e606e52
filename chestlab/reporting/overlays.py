"""A Grad-CAM picture for each image that `predict.py` predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chestlab.data.image_files import Xray, printable
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.predictions import with_threshold
from chestlab.reporting import gradcam_plots
from chestlab.training.gradcam import enlarged, grad_cam, views_line
from chestlab.training.inference import TrainedModel


class Overlays:
    """Writes a Grad-CAM picture per image into a folder, under names that do not collide.

    Args:
        folder: made when the first picture is written.
        trained: the network that is explained.
        disclaimer: the last line under each picture.
    """

    def __init__(self, folder: Path, trained: TrainedModel, disclaimer: str) -> None:
        self.folder, self.trained, self.disclaimer = folder, trained, disclaimer
        self.taken: set[str] = set()

    def write(self, xrays: Sequence[Xray], probabilities: np.ndarray) -> None:
        """Draw the pictures of a batch.

        Raises:
            InputError: Captum is not installed, or the network has no feature map.
        """
        trained = self.trained
        predicted = (probabilities >= trained.threshold).astype(int)
        maps = grad_cam(trained, np.stack([xray.seen for xray in xrays]), predicted)
        self.folder.mkdir(parents=True, exist_ok=True)
        for xray, map_, p, k in zip(xrays, maps, probabilities, predicted, strict=True):
            shown, relation, threshold = with_threshold(p, trained.threshold)
            title = (
                f"{printable(Path(xray.path.name))}\npredicted: {CLASS_NAMES[k]}; "
                f"P({CLASS_NAMES[1]}) {shown} {relation} threshold {threshold}\n"
                f"{trained.name} · {trained.architecture}\ntrained on {trained.source}"
            )
            nothing = "" if map_.any() else f"Nothing in the map speaks for {CLASS_NAMES[k]}."
            warnings = [f"WARNING: {text}" for text in xray.warnings]
            gradcam_plots.draw_overlay(
                xray.shown,
                xray.seen,
                enlarged(map_[None], len(xray.shown))[0],
                self.folder / self._name(xray.path),
                title="\n".join(line for line in (title, trained.note) if line),
                notes=[*warnings, nothing, views_line(trained), self.disclaimer],
            )

    def _name(self, path: Path) -> str:
        stem, number = f"{path.stem[:100]}_gradcam", 1
        while (name := f"{stem}{f'_{number}' if number > 1 else ''}.png").lower() in self.taken:
            number += 1
        self.taken.add(name.lower())
        return name
