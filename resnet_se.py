"""SE-ResNet-34: channel attention after the second batch norm of every block.

    python resnet_se.py --reduction 8

Hu et al., Squeeze-and-Excitation Networks (https://arxiv.org/abs/1709.01507).

On 440 images none of the 34-layer networks was shown to beat HOG features and an SVM, nor was the
modified one with a recipe like experiment 2's (results/): at that size it is not worth its time
from random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
from torch import nn

from model import SqueezeExcitation
from resnet_plain import BasicBlock, ResNet34


def squeeze_excitation(
    channels: int, reduction: int, activation: Callable[[], nn.Module] = nn.ReLU
) -> SqueezeExcitation:
    """The attention of a block: hidden width ``channels / reduction``, at least 1."""
    return SqueezeExcitation(channels, max(1, channels // reduction), activation)


class SEResNet34(ResNet34):
    """(N, 1, H, W) to logits (N,): 21,440,109 parameters at reduction 16.

    Args:
        outputs, width: as of `ResNet34`.
        reduction: channels of a block over the hidden width of its attention.
        activation: makes every nonlinearity, the attention's too.
    """

    def __init__(
        self,
        outputs: int = 1,
        width: int = 64,
        reduction: int = 16,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        attention = partial(squeeze_excitation, reduction=reduction, activation=activation)
        block = partial(BasicBlock, attention=attention)
        super().__init__(outputs, width, block=block, activation=activation)


if __name__ == "__main__":
    from chestlab.runs.family import REDUCTION, train

    train(SEResNet34, "seresnet34", {"reduction": REDUCTION})
