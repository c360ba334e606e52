"""What a network is trained to make small."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from chestlab.training.recipe import Recipe


class Objective(Protocol):
    """What a network is trained for.

    Attributes:
        views: number of augmented copies of each image that one forward pass takes.
    """

    views: int

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of a batch, and the number of correct outputs (int64), both scalars.

        Args:
            outputs: of the network, (views * N, ...): the first views of N images, then the
                second ones.
            labels: (N,) or (N, F) float.
        """
        ...


class Classification:
    """Each output is the logit of one binary label; the loss is that of `training_loss`."""

    views = 1

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Objective`, with logits and labels (N,) or (N, F)."""
        correct = ((outputs.detach() >= 0) == (labels >= 0.5)).sum()
        return training_loss(outputs, labels, self.recipe), correct


def training_loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean binary cross-entropy in nats, weighted, smoothed or focal as the recipe says.

    Focal loss (Lin et al., https://arxiv.org/abs/1708.02002) multiplies an image's loss by
    (1 - p)^gamma, p being the probability the network gives to the truth; the paper's alpha is
    ``recipe.pos_weight``. For soft targets (1 - p) is the distance to the target.

    Args:
        logits: (N,) or (N, F).
        labels: of the same shape, in 0..1: MixUp and CutMix make them fractions.
    """
    targets = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    logits = logits.float()
    weight = None if recipe.pos_weight == 1 else torch.full_like(logits[:1], recipe.pos_weight)
    losses = F.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=weight
    )
    if recipe.loss == "focal":
        losses = losses * (torch.sigmoid(logits) - targets).abs() ** recipe.focal_gamma
    return losses.mean()
