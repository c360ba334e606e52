"""Mish-ResNet-34: Mish in the place of every ReLU; and with SE, SE-Mish-ResNet-34.

    python resnet_mish.py
    python resnet_mish.py --se

Misra, Mish: A Self Regularized Non-Monotonic Activation Function
(https://arxiv.org/abs/1908.08681).
"""

from __future__ import annotations

from torch import nn

from resnet_plain import ResNet34
from resnet_se import SEResNet34


class MishResNet34(ResNet34):
    """(N, 1, H, W) to logits (N,): 21,278,913 parameters, as `ResNet34`, whose arguments it has."""

    def __init__(self, outputs: int = 1, width: int = 64) -> None:
        super().__init__(outputs, width, activation=nn.Mish)


class SEMishResNet34(SEResNet34):
    """(N, 1, H, W) to logits (N,): 21,440,109 parameters at reduction 16, as `SEResNet34`."""

    def __init__(self, outputs: int = 1, width: int = 64, reduction: int = 16) -> None:
        super().__init__(outputs, width, reduction, activation=nn.Mish)
