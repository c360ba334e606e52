"""Grad-CAM: which parts of an image a prediction comes from, and how much lies at its border."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from chestlab.files.errors import InputError
from chestlab.training.augment import to_input
from chestlab.training.inference import TrainedModel

BATCH = 32  # gradients need more memory than predictions

FRAME = 1 / 8  # of each side: what lies outside is skin, air, shoulders and burnt-in letters

CORNER = 1 / 4  # of each side


def require_captum() -> None:
    """Raise `InputError`, saying how to install it, where Captum is not."""
    if importlib.util.find_spec("captum") is None:
        raise InputError("Grad-CAM needs Captum, which is not installed: pip install captum")


def last_feature_map(model: nn.Module, x: torch.Tensor) -> tuple[str, bool]:
    """Find the module whose output is the last feature map larger than 1 x 1.

    Works for any architecture: one forward pass, watching what every module returns.

    Args:
        model: in evaluation mode.
        x: (N, 1, S, S), an input of the network.

    Returns:
        Name of the last module that returned (N, C, H, W), or (N, H, W, C) as in a Swin
        transformer, with H and W above 1; and whether the channels come last.

    Raises:
        InputError: no module returns such a map.
    """
    feature_maps: list[tuple[str, torch.Size]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.dim() == 4:
                feature_maps.append((name, output.shape))

        return hook

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for name, module in model.named_modules():
            if name:
                handle = module.register_forward_hook(watch(name))
                stack.callback(handle.remove)
        model(x)
    for name, (_, a, b, c) in reversed(feature_maps):
        channels_last = a == b != c  # the input is square, and so are its feature maps
        height, width = (a, b) if channels_last else (b, c)
        if height > 1 and width > 1:
            return name, channels_last
    raise InputError("the network has no feature map larger than 1 x 1: Grad-CAM has no place")


@contextlib.contextmanager
def _tapped(model: nn.Module, name: str, channels_last: bool) -> Iterator[nn.Module]:
    """The module of that name, or, for as long as it is needed, a view of it with channels first.

    Captum takes the second dimension for the channels.
    """
    layer = model.get_submodule(name)
    if not channels_last:
        yield layer
        return
    from torchvision.ops import Permute

    parent, _, child = name.rpartition(".")
    owner, tap = model.get_submodule(parent), nn.Identity()
    tapped = nn.Sequential(layer, Permute([0, 3, 1, 2]), tap, Permute([0, 2, 3, 1]))
    setattr(owner, child, tapped)
    try:
        yield tap
    finally:
        setattr(owner, child, layer)


def grad_cam(trained: TrainedModel, images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Grad-CAM for the predicted class of each image.

    With test-time augmentation (``flip``, ``warps``) it is the mean of the image's map and the
    mirrored image's, mirrored back, as in `export_graph.TrainedGraph`; the random warps that
    ``warps`` averages the prediction over have no map.

    Args:
        trained: the network.
        images: (N, S, S) uint8 of the network's source size.
        predicted: (N,) class 0 or 1 that each map is to explain.

    Returns:
        (N, h, w) float32, at least 0, of the size of the feature map; all 0 where nothing speaks
        for the class. `enlarged` brings them to the images' size.

    Raises:
        InputError: Captum is not installed, or the network has no feature map.
    """
    require_captum()
    from captum.attr import LayerGradCam

    def evidence(x: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
        return trained.model(x) * sign  # the single logit speaks for class 1, its negative for 0

    signs = torch.as_tensor(np.where(predicted == 1, 1.0, -1.0), dtype=torch.float32)
    maps = []
    first = to_input(trained.tensor(images[:1]), trained.recipe)
    name, channels_last = last_feature_map(trained.model, first)
    with _tapped(trained.model, name, channels_last) as layer:
        method = LayerGradCam(evidence, layer)

        def maps_of(x: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
            attributions = method.attribute(x, additional_forward_args=sign)
            assert isinstance(attributions, torch.Tensor)  # of one layer
            return attributions

        for start in range(0, len(images), BATCH):
            x = to_input(trained.tensor(images[start : start + BATCH]), trained.recipe)
            sign = signs[start : start + BATCH].to(trained.device)
            cam = maps_of(x, sign)
            if trained.tta != "none":
                cam = (cam + maps_of(x.flip(-1), sign).flip(-1)) / 2
            maps.append(cam.detach().relu()[:, 0].float().cpu().numpy())
    return np.concatenate(maps)


def views_line(trained: TrainedModel) -> str:
    """What of the prediction the maps of `grad_cam` leave out, as a sentence; often empty."""
    if trained.tta != "warps":
        return ""
    return (
        "The map is the mean of the image's and its mirror image's; the prediction also averages "
        f"{trained.recipe.tta_warps} random warps."
    )


def enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps (N, h, w) to (N, side, side), bilinearly."""
    return F.interpolate(torch.from_numpy(maps)[:, None], (side, side), mode="bilinear")[
        :, 0
    ].numpy()


def regions(side: int) -> dict[str, np.ndarray]:
    """Masks (side, side) of 0..1 over what is no heart and no lung: the frame and the corners.

    A pixel that a border crosses counts by the share of it that lies inside.
    """
    edges = np.arange(side + 1) / side

    def outer(width: float) -> np.ndarray:
        inside = np.clip(np.minimum(edges[1:], 1 - width) - np.maximum(edges[:-1], width), 0, None)
        return 1 - inside * side

    frame, corner = outer(FRAME), outer(CORNER)
    return {
        "frame": 1 - np.outer(1 - frame, 1 - frame),
        "corners": np.outer(corner, corner),
    }


def region_shares(maps: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """What share of each map's sum lies in each of the `regions`, and of a flat map's.

    Args:
        maps: (N, S, S), at least 0; those that are 0 throughout are left out.

    Returns:
        Region's name to shares (M,) in 0..1 and the share of its area.
    """
    total = maps.sum((1, 2), dtype=np.float64)
    sound = maps[total > 0]
    return {
        name: ((sound * mask).sum((1, 2)) / total[total > 0], float(mask.mean()))
        for name, mask in regions(maps.shape[-1]).items()
    }


def describe_shares(maps: np.ndarray) -> list[str]:
    """Lines that say how much of the maps lies at the border, beside what a flat map would have."""
    empty = int((maps.sum((1, 2)) == 0).sum())
    meaning = {
        "frame": f"the frame, an outer 1/{1 / FRAME:.0f} of each side",
        "corners": f"the four corners, 1/{1 / CORNER:.0f} of the sides each",
    }
    lines = []
    for name, (shares, flat) in region_shares(maps).items():
        if not len(shares):
            continue
        low, median, high = np.percentile(100 * shares, [25, 50, 75])
        lines.append(
            f"Of the Grad-CAM of {len(shares)} images, {median:.0f} % lies in {meaning[name]} "
            f"(median; middle half of the images {low:.0f} to {high:.0f} %); "
            f"a flat map would have {100 * flat:.0f} % there."
        )
    if empty:
        lines.append(
            f"For {empty} of {len(maps)} images nothing in the map speaks for the predicted class."
        )
    return lines
