"""MixUp and CutMix: two images become one, and so do their labels."""

from __future__ import annotations

import torch

from chestlab.training.augment import between
from chestlab.training.recipe import Recipe


def mix(
    x: torch.Tensor, labels: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image of a batch with another one, in proportions of its own.

    MixUp (Zhang et al., https://arxiv.org/abs/1710.09412) adds the two, CutMix (Yun et al.,
    https://arxiv.org/abs/1905.04899) puts a rectangle of one into the other. Where the recipe has
    both, each image gets one of them with even odds.

    Args:
        x: (N, 1, H, W) network input.
        labels: (N,) or (N, F).
        generator: on their device.

    Returns:
        Images and labels of the same shapes; labels are now fractions. Unchanged where the recipe
        mixes nothing.
    """
    if not recipe.mixup and not recipe.cutmix:
        return x, labels
    n, height, width = len(x), *x.shape[-2:]
    # The partner at a random distance in the batch, one distance for all: no image twice.
    draws = torch.rand(4, n, generator=generator, device=x.device)
    rows = torch.arange(n, device=x.device)
    partner = (rows + 1 + (draws[0, 0] * (n - 1)).long()) % n
    if recipe.mixup and recipe.cutmix:
        cut = draws[1] < 0.5
    else:
        cut = torch.full((n,), bool(recipe.cutmix), device=x.device)
    share = torch.where(
        cut,
        _beta(recipe.cutmix or 1.0, n, x.device),
        _beta(recipe.mixup or 1.0, n, x.device),
    )

    side = torch.sqrt(1 - share)
    inside = between(draws[2], side, height)[:, :, None] & between(draws[3], side, width)[:, None]
    kept = (~inside).float()
    share = torch.where(cut, kept.mean((1, 2)), share)
    cut, weight = cut[:, None, None, None], share[:, None, None, None]
    weight = torch.where(cut, kept[:, None], weight)
    mixed = weight * x + (1 - weight) * x[partner]
    share = share.reshape(-1, *[1] * (labels.dim() - 1))
    return mixed, share * labels + (1 - share) * labels[partner]


def _beta(alpha: float, n: int, device: torch.device) -> torch.Tensor:
    """(N,) draws from Beta(alpha, alpha), from the device's default stream."""
    concentration = torch.full((n,), alpha, device=device)
    return torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
