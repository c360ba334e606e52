"""EfficientChestNet: a small EfficientNet-style network for 28-px chest X-rays.

Inverted bottlenecks from MobileNetV2 (Sandler et al., https://arxiv.org/abs/1801.04381) with the
squeeze-and-excitation of EfficientNet (Tan and Le, https://arxiv.org/abs/1905.11946) and GELU.
1,279,377 parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class SqueezeExcitation(nn.Module):
    """Channel attention (Hu et al., https://arxiv.org/abs/1709.01507): (N, C, H, W) to the same.

    Args:
        channels: C of the input.
        squeezed: width of the hidden layer.
        activation: of the hidden layer; the paper's is ReLU.
    """

    def __init__(
        self, channels: int, squeezed: int, activation: Callable[[], nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.expand(self.activation(self.reduce(self.pool(x))))
        return x * torch.sigmoid(scale)


class Bottleneck(nn.Module):
    """1x1 expand, depthwise 3x3, SE, 1x1 project; identity skip where the shapes match.

    The squeeze width is a quarter of the block's *input* channels, EfficientNet's convention.

    Args:
        in_channels: C of the input (N, C, H, W).
        out_channels: C of the output.
        stride: of the depthwise convolution.
        expansion: hidden width over ``in_channels``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 4
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.skip = stride == 1 and in_channels == out_channels
        if self.skip:
            self.drop_path = nn.Identity()  # for `layers.set_drop_paths`
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            SqueezeExcitation(hidden, in_channels // 4),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.layers(x)) if self.skip else self.layers(x)


class EfficientChestNet(nn.Module):
    """Stem, three stages of bottlenecks, SE, pooled head: (N, 1, H, W) to logits (N,).

    Args:
        strides: of the stem and of the widening blocks of stages 1, 2 and 3, four digits or
            integers. The published description leaves them open; the default was chosen by
            patient-grouped cross-validation at 28 px (`studies/strides.py`,
            `results/studies/strides_*`).
        dropout: before the first and the second linear layer of the head.
    """

    def __init__(
        self,
        strides: str | tuple[int, int, int, int] = (2, 1, 1, 2),
        dropout: tuple[float, float] = (0.4, 0.2),
    ) -> None:
        super().__init__()
        stem, *stages = map(int, strides)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, stem, 1, bias=False), nn.BatchNorm2d(32), nn.GELU()
        )
        self.stage1 = nn.Sequential(Bottleneck(32, 32), Bottleneck(32, 64, stages[0]))
        self.stage2 = nn.Sequential(Bottleneck(64, 64), Bottleneck(64, 128, stages[1]))
        self.stage3 = nn.Sequential(
            Bottleneck(128, 128), Bottleneck(128, 256, stages[2]), Bottleneck(256, 256)
        )
        self.attention = SqueezeExcitation(256, 256 // 4)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout[0]),
            nn.Linear(256, 128),
            nn.GELU(),
            nn.Dropout(dropout[1]),
            nn.Linear(128, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.head(self.attention(x)).squeeze(1)
