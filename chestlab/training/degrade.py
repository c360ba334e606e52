"""Images as another source could show them: coarser, noisier or with a black border, at random.

Training on them is meant for pictures that were reduced in another way than the training images,
see `chestlab.data.shifts`. Lengths are shares of the side, so that they fit every size.
"""

from __future__ import annotations

import torch

LEAST_SIDE = 0.5  # share of the side that an image is reduced to and enlarged from

LARGEST_NOISE = 12 / 255  # standard deviation, of pixels in 0..1

LARGEST_BORDER = 1 / 7  # share of the side that is black at each edge: 4 px of 28


def degrade(x: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Make images coarser, add noise, blacken a border: each of the three independently.

    How much is drawn evenly up to the constants of this module, for each image and each edge.

    Args:
        x: (N, 1, H, W) in 0..1.
        probability: of each of the three, for each image.
        generator: on ``x``'s device; it advances by the same amount for every batch of N.

    Returns:
        (N, 1, H, W) in 0..1, a new tensor.
    """
    n, _, height, width = x.shape
    draws = torch.rand(10, n, generator=generator, device=x.device)
    coarser, noisier, framed = draws[:3] < probability
    side = torch.where(coarser, LEAST_SIDE + (1 - LEAST_SIDE) * draws[3], 1.0)
    smooth = draws[4] < 0.5
    rows, columns = (_resampling(length, side, smooth) for length in (height, width))
    noise = torch.randn(n, height, width, generator=generator, device=x.device)
    noise *= torch.where(noisier, LARGEST_NOISE * draws[5], 0.0)[:, None, None]
    x = (rows @ x[:, 0] @ columns.mT + noise).clamp(0, 1)
    top, bottom, left, right = LARGEST_BORDER * draws[6:] * framed
    inside = _between(height, top, bottom)[:, :, None] & _between(width, left, right)[:, None, :]
    return (x * inside)[:, None]


def _resampling(length: int, side: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """What reduces a line of pixels and enlarges it again, as a matrix for each image.

    Args:
        length: P, pixels of a line.
        side: (N,) share of them that is left in between.
        smooth: (N,) booleans, where Pillow's bilinear filter is used, else the nearest pixel.

    Returns:
        (N, P, P), each to be multiplied by a column of pixels.
    """
    numbers = torch.arange(length, device=side.device)
    centres = numbers + 0.5
    left = (side * length).round()[:, None, None]  # number of pixels in between
    step = length / left
    distance = (centres[:, None] - centres * step).abs() / step  # (N, P, P), from those in between
    weights = (1 - distance).clamp_min(0) * (numbers < left)
    down = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    up = weights / weights.sum(2, keepdim=True)
    nearest = ((centres[:, None] * left / length).floor() + 0.5) * length / left
    return torch.where(smooth[:, None, None], up @ down.mT, (nearest.long() == numbers).float())


def _between(length: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """(N, length) booleans: pixels at least the shares ``before`` and ``after`` from the ends."""
    centres = (torch.arange(length, device=before.device) + 0.5) / length
    return (centres > before[:, None]) & (centres < 1 - after[:, None])
