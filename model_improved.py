"""ResidualChestNet: a plain residual network for 28-px chest X-rays, 4,119,745 parameters.

Basic blocks from ResNet (He et al., https://arxiv.org/abs/1512.03385).
"""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution with padding that keeps the size (over the stride), then batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the input, then ReLU: (N, C, H, W) to (N, C', H/s, W/s).

    Where the shape changes the input goes through a 1x1 convolution and batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm(in_channels, out_channels, 3, stride),
            nn.ReLU(inplace=True),
            conv_norm(out_channels, out_channels, 3),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride)
        self.drop_path = nn.Identity()  # for `layers.set_drop_paths`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.drop_path(self.residual(x)) + self.shortcut(x))


class ResidualChestNet(nn.Module):
    """Three layers of two residual blocks and a three-layer head: (N, 1, H, W) to logits (N,).

    Args:
        dropout: before each of the three linear layers.
    """

    def __init__(self, dropout: tuple[float, float, float] = (0.5, 0.4, 0.3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(1, 64, 3), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(
            ResidualBlock(64, 64),
            ResidualBlock(64, 64),
            ResidualBlock(64, 128, stride=2),
            ResidualBlock(128, 128),
            ResidualBlock(128, 256, stride=2),
            ResidualBlock(256, 256),
        )
        self.last = nn.Sequential(conv_norm(256, 512, 3), nn.ReLU(inplace=True))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout[0]),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout[1]),
            nn.Linear(256, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout[2]),
            nn.Linear(128, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.layers(self.stem(x)))).squeeze(1)
