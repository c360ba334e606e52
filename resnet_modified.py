"""ResNet-34, modified: SE, dropout, batch norm before the convolutions, another activation.

    python resnet_modified.py --order post --dropout 0 --reduction 0 --activation relu

switches all four changes off, which leaves ResNet-34; each can be switched off alone.

- Order: batch norm and activation before the convolutions leave the shortcut an identity from
  the stem to the end, which trained deeper networks better and, batch norm being a regulariser,
  generalised better on small data (He et al., Identity Mappings in Deep Residual Networks,
  https://arxiv.org/abs/1603.05027).
- Dropout lies between the two convolutions, where it helped residual networks; in the shortcut it
  hurt (Zagoruyko and Komodakis, Wide Residual Networks, https://arxiv.org/abs/1605.07146). It is
  small, because dropout before a batch norm shifts that one's variance between training and
  evaluation, more so the larger it is (Li et al., https://arxiv.org/abs/1801.05134).
- SE is last in the residual branch, its standard place (https://arxiv.org/abs/1709.01507).
- SiLU is smooth and lets gradients through for negative inputs; it beat ReLU across image networks
  (Ramachandran et al., Searching for Activation Functions, https://arxiv.org/abs/1710.05941).

On 440 images none of the 34-layer networks was shown to beat HOG features and an SVM, nor was the
modified one with a recipe like experiment 2's (results/): at that size it is not worth its time
from random weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
import torch
from torch import nn

from chestlab import hyperparameter
from resnet_plain import BasicBlock, ResNet34
from resnet_se import squeeze_excitation

ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "mish": nn.Mish, "relu": nn.ReLU}
OPTIONS = {
    "order": hyperparameter(
        "pre", "batch norm before or after convolutions", choices=("pre", "post")
    ),
    "reduction": hyperparameter(
        16, "channels over the hidden width of SE, 0 for none", low=0, high=512
    ),
    "dropout": hyperparameter(
        0.1, "probability of a zero between the convolutions", low=0, high=0.9
    ),
    "activation": hyperparameter("silu", "the nonlinearity everywhere", choices=tuple(ACTIVATIONS)),
}


class PreActivationBlock(BasicBlock):
    """BN-act-conv-BN-act-conv, attention, plus the input: (N, C, H, W) to (N, C', H/s, W/s).

    Where the shape changes the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, **choices: Any) -> None:
        super().__init__(in_channels, channels, stride, **choices)
        self.bn1 = nn.BatchNorm2d(in_channels)
        if isinstance(self.downsample, nn.Sequential):
            self.downsample = self.downsample[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.act1(self.bn1(x))
        y = self.dropout(self.act2(self.bn2(self.conv1(active))))
        same = isinstance(self.downsample, nn.Identity)
        return self.attention(self.conv2(y)) + (x if same else self.downsample(active))


class ModifiedResNet34(ResNet34):
    """(N, 1, H, W) to logits (N,): 21,438,445 parameters.

    Args:
        outputs, width: as of `ResNet34`.
        order: ``pre`` or ``post``: batch norm and activation before the convolutions, or after.
        reduction: of SE; 0 for none.
        dropout: probability of a zero between the convolutions.
        activation: ``silu``, ``gelu``, ``mish`` or ``relu``, everywhere.
    """

    def __init__(
        self,
        outputs: int = 1,
        width: int = 64,
        order: str = "pre",
        reduction: int = 16,
        dropout: float = 0.1,
        activation: str = "silu",
    ) -> None:
        make = ACTIVATIONS[activation]
        choices: dict[str, Any] = {"dropout": dropout}
        if reduction:
            choices["attention"] = partial(squeeze_excitation, reduction=reduction, activation=make)
        kind = {"pre": PreActivationBlock, "post": BasicBlock}[order]
        super().__init__(outputs, width, block=partial(kind, **choices), activation=make)
        self.last = nn.Identity()
        if order == "pre":  # nothing has normalised the sum of all blocks yet
            self.last = nn.Sequential(nn.BatchNorm2d(self.fc.in_features), make())

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(super().features(x))


if __name__ == "__main__":
    from chestlab.runs.family import train

    train(ModifiedResNet34, "modifiedresnet34", OPTIONS)
