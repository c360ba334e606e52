"""RandAugment and AutoAugment, with operations and strengths drawn for each image of a batch.

`torchvision.transforms.v2` draws once for a whole batch. Here every operation is done to the whole
batch and each image takes the result of the one it has drawn, which on a device costs less than a
loop over images and reads nothing back.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")

INTENSITY = (
    "brightness",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)

OPERATIONS = ("identity", *GEOMETRIC, *INTENSITY)

RANDOM_CHOICE = tuple(name for name in OPERATIONS if name != "invert")  # RandAugment's list

# Largest change, reached at strength 1, of the operations that have one; torchvision's ranges.
LARGEST = {
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "rotate": 30.0,
    "brightness": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
    "posterize": 4.0,
    "solarize": 1.0,
}

# AutoAugment's 25 pairs for ImageNet: twice an operation, its probability, its strength in tenths.
# Colour balance does nothing to a grey image and stands as identity.
PAIRS = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("identity", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("identity", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("identity", 1.0, 2)),
    (("identity", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("identity", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("identity", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def apply_policy(
    x: torch.Tensor, policy: str, magnitude: float, generator: torch.Generator
) -> torch.Tensor:
    """Two operations after another for each image.

    ``randaugment`` (Cubuk et al., https://arxiv.org/abs/1909.13719) draws both from
    `RANDOM_CHOICE`, with one strength; ``autoaugment`` (https://arxiv.org/abs/1805.09501) draws
    one of `PAIRS`, which were learnt on ImageNet. What a warp pulls in from outside is black.

    Args:
        x: (N, 1, H, W) in 0..1.
        policy: one of the two.
        magnitude: randaugment's strength, 0..1.
        generator: on ``x``'s device.
    """
    n = len(x)
    pick = torch.rand(2, n, generator=generator, device=x.device)
    happens = torch.rand(2, n, generator=generator, device=x.device)
    sign = (torch.rand(2, n, generator=generator, device=x.device) < 0.5).float() * 2 - 1
    if policy == "autoaugment":
        row = (pick[0] * len(PAIRS)).long()
    for turn in (0, 1):
        if policy == "randaugment":
            choice = (pick[turn] * len(RANDOM_CHOICE)).long()
            weights = {name: (choice == k) for k, name in enumerate(RANDOM_CHOICE)}
            strength = torch.full_like(sign[turn], magnitude)
        else:
            never = torch.zeros(n, dtype=torch.bool, device=x.device)
            weights = {name: never for name in OPERATIONS}
            strength = torch.zeros_like(sign[turn])
            for number, pair in enumerate(PAIRS):
                name, probability, tenths = pair[turn]
                drawn = (row == number) & (happens[turn] < probability)
                weights[name] = weights[name] | drawn
                strength = strength + drawn * (tenths / 10)
        x = _operate(x, weights, strength, sign[turn])
    return x


def _operate(
    x: torch.Tensor, drawn: dict[str, torch.Tensor], strength: torch.Tensor, sign: torch.Tensor
) -> torch.Tensor:
    """Do to each image the operation it has drawn.

    Args:
        x: (N, 1, H, W) in 0..1.
        drawn: (N,) booleans by operation.
        strength: (N,) in 0..1.
        sign: (N,) -1 or 1, the direction of those that have one.
    """
    warped = _warp(x, drawn, strength * sign)
    geometric = torch.stack([drawn[name] for name in GEOMETRIC]).any(0)
    result = torch.where(geometric[:, None, None, None], warped, x)
    for name in INTENSITY:
        if name in drawn:
            changed = _intensity(x, name, strength[:, None, None, None], sign[:, None, None, None])
            result = torch.where(drawn[name][:, None, None, None], changed, result)
    return result


def _warp(x: torch.Tensor, drawn: dict[str, torch.Tensor], amount: torch.Tensor) -> torch.Tensor:
    """Shear, shift or turn about the centre, one bilinear warp for the five of them."""
    change = {name: drawn[name] * amount * LARGEST[name] for name in GEOMETRIC}
    angle = change["rotate"] * (math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cos, sin + change["shear_x"], 2 * change["translate_x"]], 1)
    second = torch.stack([-sin + change["shear_y"], cos, 2 * change["translate_y"]], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _intensity(
    x: torch.Tensor, name: str, strength: torch.Tensor, sign: torch.Tensor
) -> torch.Tensor:
    factor = 1 + sign * strength * LARGEST.get(name, 0.0)
    if name == "brightness":
        return (x * factor).clamp(0, 1)
    if name == "contrast":
        mean = x.mean((1, 2, 3), keepdim=True)
        return ((x - mean) * factor + mean).clamp(0, 1)
    if name == "sharpness":
        smooth = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return (smooth + (x - smooth) * factor).clamp(0, 1)
    if name == "posterize":
        levels = 2 ** torch.round(8 - strength * LARGEST[name])
        return torch.floor(x * 255 * levels / 256) * (256 / levels) / 255
    if name == "solarize":
        return torch.where(x >= 1 - strength * LARGEST[name], 1 - x, x)
    if name == "autocontrast":
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)
    if name == "equalize":
        return _equalize(x)
    return 1 - x  # invert


def _equalize(x: torch.Tensor) -> torch.Tensor:
    """Grey values to their share of smaller ones in the image, so that all are as frequent."""
    levels = (x.flatten(1) * 255).round().long()
    counts = torch.zeros(len(x), 256, device=x.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float32))
    below = counts.cumsum(1) - counts
    brightest = counts.gather(1, levels.amax(1, keepdim=True))
    share = below / (levels.shape[1] - brightest).clamp(min=1)
    return share.gather(1, levels).clamp(0, 1).reshape(x.shape)
