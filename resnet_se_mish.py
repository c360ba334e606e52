"""SE-Mish-ResNet-34: the attention of SE-ResNet-34 and the Mish of Mish-ResNet-34 together.

    python resnet_se_mish.py --reduction 8

On 440 images none of the 34-layer networks was shown to beat HOG features and an SVM, nor was the
modified one with a recipe like experiment 2's (results/): at that size it is not worth its time
from random weights.
"""

from __future__ import annotations

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
from torch import nn

from resnet_se import SEResNet34


class SEMishResNet34(SEResNet34):
    """(N, 1, H, W) to logits (N,): 21,440,109 parameters at reduction 16.

    Args:
        outputs, width, reduction: as of `SEResNet34`; the attention's nonlinearity is Mish, too.
    """

    def __init__(self, outputs: int = 1, width: int = 64, reduction: int = 16) -> None:
        super().__init__(outputs, width, reduction, activation=nn.Mish)


if __name__ == "__main__":
    from chestlab.runs.family import REDUCTION, train

    train(SEMishResNet34, "semishresnet34", {"reduction": REDUCTION})
