"""What a network is trained for: the loss of a batch, and how much of it is correct.

`Classification` is what every training script does. `SimCLR` needs no labels and serves
`studies.pretrain`.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from chestlab.training.distributed import SharedBatches
from chestlab.training.recipe import Recipe


class Objective(Protocol):
    """The loss that `trainer.Trainer` minimises.

    Attributes:
        views: number of augmented copies of each image in a batch.
    """

    views: int

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, batches: SharedBatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of a batch and the number of correct answers, of at most one per label.

        Args:
            outputs: of the network, (views * n, ...): first views of n images, then second ones.
            labels: (n,) or (n, F) float.
            batches: where n images are one process's share of a batch, gives the others' outputs.

        Returns:
            Two scalars on the device, the second int64.
        """
        ...


class Classification:
    """Each output is the logit of a binary label: `training_loss` with the recipe's settings."""

    views = 1

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, batches: SharedBatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Objective`; logits have the shape of the labels, an answer is right at 0.5."""
        correct = ((outputs.detach() >= 0) == (labels >= 0.5)).sum()
        return training_loss(outputs, labels, self.recipe), correct


class SimCLR:
    """Two random views of an image are to be found among those of all images in the batch.

    Chen et al., https://arxiv.org/abs/2002.05709. An image counts as correct where the view most
    similar to its first one is its second one. Labels are not used.

    Args:
        temperature: of `nt_xent`.
    """

    views = 2

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, batches: SharedBatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Objective`, of outputs (2 n, D) of any length."""
        z = F.normalize(outputs.float())
        everyone, rows = batches.gather(z)
        return nt_xent(z, everyone, rows, self.temperature)


class ProjectionHead(nn.Sequential):
    """(N, F) to (N, outputs): the layers whose outputs SimCLR compares, dropped afterwards."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs))
        self.in_features, self.out_features = features, outputs


def nt_xent(
    z: torch.Tensor, everyone: torch.Tensor, rows: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised temperature-scaled cross-entropy of SimCLR, mean over the views in ``z``.

    Args:
        z: (n, D) of length 1, the views whose other view is sought.
        everyone: (2 N, D) of length 1, first views of N images, then second ones.
        rows: (n,) int64, the rows of ``z`` in there.
        temperature: similarities are divided by it.

    Returns:
        The loss in nats, and how many first views are most similar to their second one (int64).
    """
    total = len(everyone)
    itself = rows[:, None] == torch.arange(total, device=rows.device)
    similar = (z @ everyone.T / temperature).masked_fill(itself, -math.inf)
    other = (rows + total // 2) % total
    correct = ((similar.detach().argmax(1) == other) & (rows < total // 2)).sum()
    return F.cross_entropy(similar, other), correct


def training_loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The mean of `losses_of`, of the same arguments: a scalar."""
    return losses_of(logits, labels, recipe).mean()


def losses_of(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Binary cross-entropy in nats, weighted, smoothed or focal as the recipe says.

    Focal loss (Lin et al., https://arxiv.org/abs/1708.02002) multiplies an image's loss by
    (1 - p)^gamma, where p is the predicted probability of the true class; the paper's alpha is
    ``recipe.pos_weight``. For soft targets (1 - p) is the distance to the target.

    Args:
        logits: (N,) or (N, F).
        labels: of the same shape, in 0..1: MixUp and CutMix make them fractions.

    Returns:
        Losses of the same shape.
    """
    targets = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    logits = logits.float()
    weight = None if recipe.pos_weight == 1 else torch.full_like(logits[:1], recipe.pos_weight)
    losses = F.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=weight
    )
    if recipe.loss == "focal":
        losses = losses * (torch.sigmoid(logits) - targets).abs() ** recipe.focal_gamma
    return losses
