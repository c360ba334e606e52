"""Mish-ResNet-34: Mish in the place of every ReLU.

    python resnet_mish.py

Misra, Mish: A Self Regularized Non-Monotonic Activation Function
(https://arxiv.org/abs/1908.08681).

On 440 images none of the 34-layer networks was shown to beat HOG features and an SVM, nor was the
modified one with a recipe like experiment 2's (results/): at that size it is not worth its time
from random weights.
"""

from __future__ import annotations

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
from torch import nn

from resnet_plain import ResNet34


class MishResNet34(ResNet34):
    """(N, 1, H, W) to logits (N,): 21,278,913 parameters, as `ResNet34`.

    Args:
        outputs, width: as of `ResNet34`.
    """

    def __init__(self, outputs: int = 1, width: int = 64) -> None:
        super().__init__(outputs, width, activation=nn.Mish)


if __name__ == "__main__":
    from chestlab.runs.family import train

    train(MishResNet34, "mishresnet34")
