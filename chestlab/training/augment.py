"""From uint8 images on the device to network input: resize, augment, normalise, in whole batches.

Every image gets random parameters of its own. (`torchvision.transforms.v2` draws one set for a
batch, which trains on less variety than it seems.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from chestlab.training.degrade import degrade
from chestlab.training.policies import apply_policy
from chestlab.training.recipe import Recipe


@dataclass(frozen=True)
class Warp:
    """Parameters of `affine` for N images: angle, translate, scale and flip."""

    angle: torch.Tensor
    translate: torch.Tensor
    scale: torch.Tensor
    flip: torch.Tensor


def to_input(
    images: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator | None = None,
    warp: Warp | None = None,
) -> torch.Tensor:
    """What the network sees: resized, augmented if a generator is given, then normalised.

    What a warp pulls in from outside is black. The mean and standard deviation that normalise an
    image are those before augmentation, as in evaluation: a black border would shift them. A
    degraded image has its own, for it stands for a picture from elsewhere.

    Args:
        images: (N, 1, S, S) uint8.
        recipe: image size, augmentation and normalisation.
        generator: on the images' device; None for evaluation.
        warp: of one image, done to all of them: a view for test-time augmentation.

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
    if generator is not None and recipe.degrade:
        x = degrade(x, recipe.degrade, generator)
    mean, std = statistics(x, recipe)
    if generator is not None:
        x = augment(x, recipe, generator)
    if warp is not None:
        n = x.shape[0]  # len() would make it a constant of an exported graph
        x = affine(
            x,
            warp.angle.expand(n),
            warp.translate.expand(n, 2),
            warp.scale.expand(n),
            warp.flip.expand(n),
        )
    return (x - mean) / std


def statistics(
    x: torch.Tensor, recipe: Recipe
) -> tuple[float, float] | tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation that normalise images: the recipe's, or each image's own.

    A standard deviation is at least a grey level, so that the border of a constant image that is
    warped stays moderate.

    Args:
        x: (N, 1, H, W) in 0..1.

    Returns:
        two numbers, or two tensors (N, 1, 1, 1) under ``per-image``.
    """
    if recipe.normalize == "fixed":
        return recipe.mean, recipe.std
    std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
    return mean, (std + 1e-6).clamp_min(1 / 255)


def augment(x: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Warp, flip, change intensities and erase, as the recipe says, independently for each image.

    Args:
        x: (N, 1, H, W) in 0..1.
        generator: on ``x``'s device; it advances by the same amount for every batch of N.
    """
    n = len(x)
    if recipe.rotate or recipe.translate or recipe.scale or recipe.flip:
        warp = draw_warps(n, recipe, generator)
        if recipe.rotate or recipe.translate or recipe.scale:
            x = affine(x, warp.angle, warp.translate, warp.scale, warp.flip)
        else:
            x = torch.where(warp.flip[:, None, None, None], x.flip(-1), x)
    if recipe.vertical_flip:
        upside_down = torch.rand(n, generator=generator, device=x.device) < recipe.vertical_flip
        x = torch.where(upside_down[:, None, None, None], x.flip(-2), x)
    if recipe.policy != "none":
        x = apply_policy(x, recipe.policy, recipe.magnitude, generator)
    if recipe.jitter:
        draws = torch.rand(2, n, 1, 1, 1, generator=generator, device=x.device) * 2 - 1
        brightness, contrast = 1 + draws * recipe.jitter
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (((x - mean) * contrast + mean) * brightness).clamp(0, 1)
    if recipe.erase:
        x = erase(x, recipe.erase, generator)
    return x


def draw_warps(n: int, recipe: Recipe, generator: torch.Generator) -> Warp:
    """Rotation, shift, zoom and flip of n images, drawn from what the recipe allows."""
    draws = torch.rand(5, n, generator=generator, device=generator.device)
    symmetric = draws[:4] * 2 - 1
    return Warp(
        angle=symmetric[0] * recipe.rotate,
        translate=symmetric[1:3].T * recipe.translate,
        scale=1 + symmetric[3] * recipe.scale,
        flip=draws[4] < recipe.flip,
    )


def warps_anything(recipe: Recipe) -> bool:
    """Whether random warps, but for the mirror image, can differ from the image."""
    return bool(recipe.rotate or recipe.translate or recipe.scale)


def random_warps(recipe: Recipe, device: torch.device) -> list[Warp]:
    """The recipe's warps for test-time augmentation, the same at every call."""
    n, generator = recipe.tta_warps, torch.Generator().manual_seed(recipe.seed)
    warps = draw_warps(n, recipe, generator)
    parts = [getattr(warps, field.name).to(device).split(1) for field in fields(Warp)]
    return [Warp(*values) for values in zip(*parts, strict=True)]


def erase(x: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Black out a rectangle of 2 to 20 % of the area, sides up to 3:1 (Random Erasing).

    Zhong et al., https://arxiv.org/abs/1708.04896; black instead of noise, as CutOut does.
    The rectangle's centre lies anywhere, so a part of it may be outside.

    Args:
        x: (N, 1, H, W).
    """
    n, height, width = len(x), *x.shape[-2:]
    hit, area, ratio, across, down = torch.rand(5, n, generator=generator, device=x.device)
    area, ratio = 0.02 + 0.18 * area, torch.exp((ratio * 2 - 1) * math.log(3))
    inside = (
        between(down, torch.sqrt(area * ratio), height)[:, :, None]
        & between(across, torch.sqrt(area / ratio), width)[:, None, :]
        & (hit < probability)[:, None, None]
    )
    return x * ~inside[:, None]


def between(centre: torch.Tensor, side: torch.Tensor, pixels: int) -> torch.Tensor:
    """(N, P) booleans: pixels of a line within ``side`` (of 0..1) about ``centre`` (of 0..1)."""
    position = (torch.arange(pixels, device=centre.device) + 0.5) / pixels
    return (position - centre[:, None]).abs() < side[:, None] / 2


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
