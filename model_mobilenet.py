"""MobileNetV3-Large for one grey channel and one logit, 5,022,225 parameters.

Howard et al., Searching for MobileNetV3 (https://arxiv.org/abs/1905.02244); the backbone is
torchvision's.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large

from chestlab.training.weights import PretrainedWeights, grey_stem, load_backbone

IMAGENET_URL = MobileNet_V3_Large_Weights.IMAGENET1K_V2.url


class MobileNetV3Chest(nn.Module):
    """(N, 1, H, W) to logits (N,): torchvision's features and a three-layer classifier.

    Args:
        start: weights of the backbone; None leaves torchvision's random initialisation.
        dropout: before the second and the third linear layer.
    """

    def __init__(
        self, start: PretrainedWeights | None = None, dropout: tuple[float, float] = (0.5, 0.25)
    ) -> None:
        super().__init__()
        self.backbone = mobilenet_v3_large(weights=None).features
        grey_stem(self.backbone)
        if start is not None:
            load_backbone(self.backbone, start)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(960, 1280),
            nn.Hardswish(),
            nn.Dropout(dropout[0]),
            nn.Linear(1280, 640),
            nn.Hardswish(),
            nn.Dropout(dropout[1]),
            nn.Linear(640, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(x)).squeeze(1)
