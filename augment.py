"""From uint8 images on the device to network input: resize, warp, normalise, in whole batches.

Every image gets random parameters of its own. (`torchvision.transforms.v2` draws one set for a
batch, which trains on less variety than it seems.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from engine import Recipe


def to_input(
    images: torch.Tensor, recipe: Recipe, generator: torch.Generator | None = None
) -> torch.Tensor:
    """What the network sees: resized, augmented if a generator is given, then normalised.

    The warp comes before the normalisation, so what it pulls in from outside is black.

    Args:
        images: (N, 1, S, S) uint8.
        recipe: image size, augmentation and normalisation.
        generator: on the images' device; None for evaluation.

    Returns:
        (N, 1, H, W) float32 with H = W = ``recipe.image_size`` or S.
    """
    x = images.to(torch.float32).div_(255)
    if recipe.image_size and recipe.image_size != x.shape[-1]:
        smaller = recipe.image_size < x.shape[-1]
        x = F.interpolate(
            x,
            size=(recipe.image_size,) * 2,
            mode="bilinear",
            align_corners=False,
            antialias=smaller,
        )
    if generator is not None:
        x = augment(x, recipe, generator)
    return normalize(x, recipe)


def normalize(x: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Subtract a mean and divide by a standard deviation: the recipe's, or each image's own.

    Args:
        x: (N, 1, H, W) in 0..1. A constant image becomes zeros under ``per-image``.
    """
    if recipe.normalize == "fixed":
        return (x - recipe.mean) / recipe.std
    std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (std + 1e-6)


def augment(x: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Random rotation, translation, scale and horizontal flip, independent for each image.

    Args:
        x: (N, 1, H, W) float.
        generator: on ``x``'s device; it advances by the same amount for every batch of N.
    """
    geometric = recipe.rotate or recipe.translate or recipe.scale
    if not geometric and not recipe.flip:
        return x
    n = len(x)
    draws = torch.rand(5, n, generator=generator, device=x.device)
    flip = draws[4] < recipe.flip
    if not geometric:
        return torch.where(flip[:, None, None, None], x.flip(-1), x)
    symmetric = draws[:4] * 2 - 1
    return affine(
        x,
        angle=symmetric[0] * recipe.rotate,
        translate=symmetric[1:3].T * recipe.translate,
        scale=1 + symmetric[3] * recipe.scale,
        flip=flip,
    )


def affine(
    x: torch.Tensor,
    angle: torch.Tensor,
    translate: torch.Tensor,
    scale: torch.Tensor,
    flip: torch.Tensor,
) -> torch.Tensor:
    """Rotate and scale about the centre, translate, then mirror: one bilinear warp, black outside.

    The same as `torchvision.transforms.functional.affine` per image followed by a flip, with its
    signs: a positive angle turns clockwise, positive translations go right and down.

    Args:
        x: (N, C, H, W) float.
        angle: (N,) degrees.
        translate: (N, 2) right and down, as fractions of width and height.
        scale: (N,) zoom factor, above 1 magnifies.
        flip: (N,) booleans, mirror left to right.
    """
    radians = angle * (math.pi / 180)
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    # grid_sample wants the map from output to input in coordinates -1..1, where a shift of the
    # whole width is 2 and the ratio of the sides enters the rotation.
    ratio = x.shape[-1] / x.shape[-2]
    shift_x, shift_y = translate[:, 0] * 2, translate[:, 1] * 2
    mirror = torch.where(flip, -1.0, 1.0)
    first = torch.stack([cos * mirror, sin / ratio, -cos * shift_x - sin / ratio * shift_y], 1)
    second = torch.stack([-sin * ratio * mirror, cos, sin * ratio * shift_x - cos * shift_y], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
