"""Predictions: the logits of any network, and a trained network rebuilt from its checkpoint.

From a checkpoint come the weights, the recipe with its preprocessing, the decision threshold, the
test-time augmentation and the size of the images it was trained on.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.metrics import sigmoid
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError, TrainingError
from chestlab.training.augment import random_warps, to_input
from chestlab.training.device import (
    autocast,
    keep_freed_memory,
    memory_errors,
    memory_format,
)
from chestlab.training.layers import on_device
from chestlab.training.likeness import Likeness
from chestlab.training.network_names import network_name
from chestlab.training.recipe import Recipe

NetworkClass = Callable[[str, str], Callable[..., nn.Module]]


EVALUATION_BATCH = 128  # images; on CUDA see `batch_on_cuda`

EVALUATED_PER_TRAINED = 4  # images whose evaluation takes less memory than one's training step


def batch_on_cuda(recipe: Recipe, size: int) -> int:
    """Images that are evaluated at once on CUDA, within the memory of a training step.

    Args:
        recipe: says how large a training batch is, and to what images are resized.
        size: side of the images in pixels.
    """
    side = recipe.image_size or size
    most = EVALUATION_BATCH * min(8, max(1, 224**2 // side**2))
    return min(most, EVALUATED_PER_TRAINED * recipe.batch_size)


def predict(
    model: nn.Module,
    images: torch.Tensor,
    recipe: Recipe,
    amp: torch.dtype | None = None,
    tta: str = "none",
) -> np.ndarray:
    """Logits (N,) or (N, F) float64 of images (N, 1, S, S) uint8, in evaluation mode.

    What is stored is predicted in float32, without ``amp``.

    Under ``tta="flip"`` the mean of the logits of each image and of its mirror image; under
    ``"warps"`` of these and of ``recipe.tta_warps`` random warps of the recipe's strength, the
    same ones for every image, so that no image's probability depends on its neighbours.
    """
    return predict_twice(model, images, recipe, amp, tta)[1]


def predict_twice(
    model: nn.Module,
    images: torch.Tensor,
    recipe: Recipe,
    amp: torch.dtype | None = None,
    tta: str = "none",
) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a single pass, which is one of those that ``tta`` averages, and `predict`'s."""
    if images.device.type == "cpu":
        keep_freed_memory()
    model.eval()
    warps = random_warps(recipe, images.device) if tta == "warps" else []
    size = EVALUATION_BATCH
    if images.device.type == "cuda":
        size = batch_on_cuda(recipe, images.shape[-1])
    while size:
        with (
            contextlib.suppress(torch.OutOfMemoryError),
            memory_errors(),
            torch.inference_mode(),
            autocast(images.device, amp),
        ):
            single, averaged = [], []
            for batch in images.split(size):
                x = to_input(batch, recipe)
                views = [x] if tta == "none" else [x, x.flip(-1)]
                views += [to_input(batch, recipe, warp=warp) for warp in warps]
                values = [
                    model(view.contiguous(memory_format=memory_format(view.device))).float()
                    for view in views
                ]
                single.append(values[0])
                averaged.append(sum(values) / len(values))
            return _numbers(single), _numbers(averaged)
        size //= 2
    raise TrainingError("out of memory with a single image: try a smaller --image-size")


def _numbers(logits: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat(list(logits)).cpu().double().numpy()  # MPS has no float64


@dataclass(frozen=True)
class TrainedModel:
    """A network in evaluation mode and how its numbers are to be read.

    Attributes:
        name: of the run, as the checkpoint's file name tells it.
        architecture: the network's `network_name`.
        model: takes (N, 1, H, W) normalised floats, returns logits (N,).
        recipe: its preprocessing is `augment.to_input`'s.
        threshold: probability from which class 1, pneumothorax, is predicted.
        tta: test-time augmentation the threshold was chosen with.
        size: side in pixels of the source images it was trained on.
        source: what those images were, in one line.
        sha256: of their file.
        note: a warning that belongs to every artefact of the run, or empty.
        seen: records of `provenance.record` of the images it was ``trained`` and ``chosen`` on.
        device: where the network is.
        temperature: what the logits are divided by, 1 where none was fitted.
        data_location: where the images were, see `finished_runs.data_location`; empty in a
            checkpoint of an older version.
        likeness: tells images that are unlike those of the training; None where the checkpoint is
            of an older version, or the training had too few images.
    """

    name: str
    architecture: str
    model: nn.Module
    recipe: Recipe
    threshold: float
    tta: str
    size: int
    source: str
    sha256: str
    note: str
    seen: Mapping[str, Any]
    device: torch.device
    temperature: float = 1.0
    data_location: str = ""
    likeness: Likeness | None = None

    @property
    def phantom(self) -> bool:
        """It was trained on procedural images and no X-rays."""
        return PHANTOM_MARK in self.source

    def tensor(self, images: np.ndarray) -> torch.Tensor:
        """Images (N, S, S) uint8 as (N, 1, S, S) on the device."""
        return torch.from_numpy(images)[:, None].to(self.device)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N,) of pneumothorax of images (N, S, S) uint8, S being ``size``."""
        logits = predict(self.model, self.tensor(images), self.recipe, tta=self.tta)
        return sigmoid(logits / self.temperature)


def load_model(
    path: Path, network_class: NetworkClass, device: torch.device | None = None
) -> TrainedModel:
    """Rebuild the network of a finished run from its checkpoint.

    Args:
        path: ``NAME_best.pth`` or, of a run in two stages, ``NAME_final.pth``.
        network_class: looks a class up by its name and the script that trained it, as
            `networks.network_class` does.
        device: where it is to run; None is the CPU.

    Raises:
        InputError: the file is missing, damaged, no checkpoint of a finished run, or of a network
            that is not (or no longer) among this project's files.
    """
    device = device or torch.device("cpu")
    state = load_checkpoint(path, sealed=True)
    if "objective" in state:
        raise InputError(
            f"checkpoint '{path}' is of studies.pretrain and has not learned the two classes; a "
            "training script takes it as --weights"
        )
    if state.get("model_arguments", {}).get("outputs", 1) > 1:
        raise InputError(
            f"checkpoint '{path}' is of --task findings; wanted is one of the two classes"
        )
    if "weights" not in state or "threshold" not in state:
        raise InputError(
            f"checkpoint '{path}' has no threshold yet: it is of an unfinished run, of a first "
            "stage, or to resume from; wanted is NAME_best.pth of a finished run"
        )
    try:
        size = state["data"].get("size")
        fields = {
            "architecture": network_name(state),
            "recipe": Recipe(**state["recipe"]),
            "threshold": float(state["threshold"]),
            "tta": state["tta"],
            "temperature": float(state.get("temperature", 1.0)),
            "source": state["data"]["source"],
            "sha256": state["data"]["sha256"],
            "note": state.get("starting_weights", {}).get("note", ""),
            "seen": state.get("seen", {}),
            "data_location": str(state.get("data_location", "")),
        }
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"checkpoint '{path}' is of another version: {error}") from None
    if not 0 <= fields["threshold"] <= 1:
        raise InputError(
            f"checkpoint '{path}' is damaged: its threshold is {fields['threshold']}, allowed are "
            "probabilities from 0 to 1; train again, or take another checkpoint"
        )
    if size is None:
        raise InputError(
            f"checkpoint '{path}' does not say how large the images of its training were: "
            "it is of an older version; train again"
        )
    likeness = _likeness(state, path)
    model = on_device(_build(state, path, network_class), device).eval()
    name = re.sub(r"_(best|final)$", "", path.stem)
    return TrainedModel(
        name=name, model=model, size=size, device=device, likeness=likeness, **fields
    )


def _likeness(state: Mapping[str, Any], path: Path) -> Likeness | None:
    if "likeness" not in state:
        return None
    try:
        return Likeness.from_state(state["likeness"])
    except ValueError as error:
        raise InputError(
            f"checkpoint '{path}': the statistics of its training images are damaged ({error}): "
            "train again"
        ) from None


def _build(state: Mapping[str, Any], path: Path, network_class: NetworkClass) -> nn.Module:
    network = network_class(state["model"], str(state.get("script", "")))
    try:
        model = network(**state.get("model_arguments", {}))
        model.load_state_dict(state["weights"])
    except (TypeError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise InputError(
            f"checkpoint '{path}' does not fit {state['model']}, which has been changed since, or "
            f"is another network of that name: undo the change or train again ({reason})"
        ) from None
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise InputError(f"checkpoint '{path}' holds weights that are not finite: train again")
    return model
