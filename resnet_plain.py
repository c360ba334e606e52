"""Plain-34 and ResNet-34 for one grey channel: the effect of the shortcut.

    python resnet_plain.py

trains both, with the same seed and data order, and draws them side by side. He et al., Deep
Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385). The whole family of
34-layer networks is made of the block and the network in this file; modules have torchvision's
names, so that its weights fit.

On 440 images none of the 34-layer networks was shown to beat HOG features and an SVM, nor was the
modified one with a recipe like experiment 2's (results/): at that size it is not worth its time
from random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
import torch
from torch import nn

DEPTHS = (3, 4, 6, 3)  # blocks per stage: with stem and classifier 34 layers of weights


class BasicBlock(nn.Module):
    """conv-BN-act-conv-BN, attention, plus the input, act: (N, C, H, W) to (N, C', H/s, W/s).

    Args:
        in_channels: C of the input.
        channels: C of the output.
        stride: of the first convolution.
        shortcut: add the input; where the shape changes, through a 1x1 convolution and batch norm.
        activation: makes the nonlinearity.
        attention: makes a module for a number of channels that follows the second batch norm.
        dropout: probability of a zero between the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        shortcut: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
        attention: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = activation()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.attention = attention(channels) if attention else nn.Identity()
        self.shortcut = shortcut
        self.downsample = nn.Identity()
        if shortcut and (stride > 1 or in_channels != channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.act2 = activation()
        if shortcut:
            self.drop_path = nn.Identity()  # for `layers.set_drop_paths`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dropout(self.act1(self.bn1(self.conv1(x))))
        y = self.attention(self.bn2(self.conv2(y)))
        return self.act2(self.drop_path(y) + self.downsample(x) if self.shortcut else y)


class ResNet34(nn.Module):
    """(N, 1, H, W) to logits (N,), or (N, outputs) for more than one: 21,278,913 parameters.

    Convolutions start as torchvision's do: normal, Kaiming's variance of the fan-out
    (https://arxiv.org/abs/1502.01852).

    Args:
        outputs: number of logits per image.
        width: channels of the first stage, doubled by each of the other three.
        block: makes a block from its input channels, its channels and its stride.
        activation: makes every nonlinearity.
    """

    def __init__(
        self,
        outputs: int = 1,
        width: int = 64,
        *,
        block: Callable[..., nn.Module] = BasicBlock,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block, channels = partial(block, activation=activation), width
        for number, depth in enumerate(DEPTHS):
            before, channels = channels, width * 2**number
            first = block(before, channels, 1 if number == 0 else 2)
            rest = [block(channels, channels, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(channels, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to (N, 8 width, H/32, W/32), before the average over positions."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.fc(self.features(x).mean((2, 3)))
        return logits.squeeze(1) if self.fc.out_features == 1 else logits


class Plain34(ResNet34):
    """ResNet-34 without its shortcuts, initialised in the same way: 21,105,089 parameters."""

    def __init__(self, outputs: int = 1, width: int = 64) -> None:
        super().__init__(outputs, width, block=partial(BasicBlock, shortcut=False))


if __name__ == "__main__":
    from chestlab.runs.family import train_both

    train_both({"plain34": Plain34, "resnet34": ResNet34})
