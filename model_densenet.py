"""DenseNet-121 (7,603,969 parameters) and its rivals for one grey channel and one logit.

The backbones are torchvision's, or any of timm's, each with the same classifier on top:

- ``densenet121``, ``densenet169``: Huang et al. (https://arxiv.org/abs/1608.06993)
- ``mobilenet_v2``: Sandler et al. (https://arxiv.org/abs/1801.04381)
- ``efficientnet_b0``, ``efficientnet_b3``: Tan and Le (https://arxiv.org/abs/1905.11946)
- ``resnet50``, ``resnet101``: He et al. (https://arxiv.org/abs/1512.03385)
- ``swin_t``: Liu et al. (https://arxiv.org/abs/2103.14030)
- ``vit_b_16``: Dosovitskiy et al. (https://arxiv.org/abs/2010.11929)
- ``timm/NAME``: a network of timm, https://huggingface.co/docs/timm
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights

from chestlab.files.errors import InputError
from chestlab.training.timm_networks import TIMM, timm_backbone, timm_name
from chestlab.training.weights import PretrainedWeights, grey_stem, load_backbone

ARCHITECTURES = (
    "densenet121",
    "densenet169",
    "mobilenet_v2",
    "efficientnet_b0",
    "efficientnet_b3",
    "resnet50",
    "resnet101",
    "swin_t",
    "vit_b_16",
)


def imagenet_url(arch: str = "densenet121") -> str:
    """Address of a network's best ImageNet weights: a URL of torchvision's, or ``timm/NAME``.

    Raises:
        InputError: timm has no such network, or is not installed.
    """
    if arch.startswith(TIMM):
        return TIMM + timm_name(arch)
    return get_model_weights(arch).DEFAULT.url


def torchvision_backbone(arch: str) -> tuple[nn.Module, int]:
    """A torchvision classifier without its head and for one grey channel, randomly initialised.

    Dropout and stochastic depth before the head are torchvision's defaults.

    Args:
        arch: a name torchvision's `get_model` knows.

    Returns:
        The network from (N, 1, H, W) to features (N, F), and F.
    """
    backbone = get_model(arch, weights=None)
    path, last = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear)][-1]
    setattr(backbone, path.split(".")[0], nn.Identity())
    grey_stem(backbone, from_fan_in=arch.startswith(("densenet", "swin", "vit")))
    return backbone, last.in_features


def three_layers(features: int, dropout: tuple[float, float]) -> nn.Sequential:
    """The classifier F->512->256->1 on every backbone, where DenseNet-121's F is 1024.

    ReLU is DenseNet's own activation. The dropout rates and their places are those of experiment
    3, whose classifier is the only other one of three layers here, so that the two experiments
    differ in the backbone.

    Args:
        features: F.
        dropout: before the second and the third linear layer.
    """
    return nn.Sequential(
        nn.Linear(features, 512),
        nn.ReLU(),
        nn.Dropout(dropout[0]),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(dropout[1]),
        nn.Linear(256, 1),
    )


def resized(x: torch.Tensor, side: int) -> torch.Tensor:
    """Square images (N, C, S, S) in the only size that a network takes, 0 for any."""
    if not side or side == x.shape[-1]:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=side < x.shape[-1])


class TorchvisionChest(nn.Module):
    """(N, 1, H, W) to logits (N,): torchvision's network up to its pooled features, a new head.

    A vision transformer's position embeddings are of one input size, 224 px for ``vit_b_16``:
    other images are resized to it, bilinearly, so its cost does not depend on ``--image-size``.

    Args:
        start: weights of the backbone; None leaves torchvision's random initialisation.
        arch: one of `ARCHITECTURES`.
        dropout: of the classifier, see `three_layers`.

    Attributes:
        smallest_input: side in pixels below which there is nothing left to pool.

    Raises:
        InputError: the weights do not fit.
    """

    def __init__(
        self,
        start: PretrainedWeights | None = None,
        arch: str = "densenet121",
        dropout: tuple[float, float] = (0.5, 0.25),
    ) -> None:
        super().__init__()
        self.backbone, features = torchvision_backbone(arch)
        # DenseNet halves five times, the last three without padding; the others pad everywhere.
        self.smallest_input = 29 if arch.startswith("densenet") else 1
        if start is not None:
            load_backbone(self.backbone, start)
        self.classifier = three_layers(features, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = resized(x, getattr(self.backbone, "image_size", 0))
        return self.classifier(self.backbone(x)).squeeze(1)


class DenseNet121Chest(TorchvisionChest):
    """`TorchvisionChest` at its defaults, under the name of experiment 4."""


class TimmChest(nn.Module):
    """(N, 1, H, W) to logits (N,): timm's network up to its pooled features, a new head.

    Dropout and stochastic depth in the backbone are timm's defaults, none. Where it takes images
    of one size only, as most transformers do, others are resized to it, bilinearly.

    Args:
        start: weights of the backbone; None leaves timm's random initialisation.
        arch: ``timm/NAME``.
        dropout: of the classifier, see `three_layers`.

    Raises:
        InputError: timm is not installed, has no such network, or the weights do not fit.
    """

    def __init__(
        self,
        start: PretrainedWeights | None = None,
        arch: str = f"{TIMM}tf_efficientnet_lite0",
        dropout: tuple[float, float] = (0.5, 0.25),
    ) -> None:
        super().__init__()
        found = timm_backbone(arch)
        self.backbone, self.side = found.module, found.side
        self.about = f"'{arch}', whose usual size is {found.usual_side} pixels,"
        if start is not None:
            load_backbone(self.backbone, start, found.head)
        self.classifier = three_layers(found.features, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(resized(x, self.side))).squeeze(1)

    def check_side(self, side: int) -> None:
        """Refuse images of a size in pixels that the network cannot take.

        Raises:
            InputError: it cannot; says which size its weights were trained on.
        """
        training = self.training
        try:
            with torch.inference_mode():
                self.eval()(torch.zeros(1, 1, side, side))
        except Exception as error:  # of more than a thousand networks
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"--image-size: {self.about} does not take images of {side} pixels: {reason}"
            ) from None
        finally:
            self.train(training)


def torchvision_chest(
    start: PretrainedWeights | None = None, arch: str = "densenet121"
) -> nn.Module:
    """The network of experiment 4, or one of its rivals, of torchvision or timm."""
    if arch.startswith(TIMM):
        return TimmChest(start, arch)
    return (DenseNet121Chest if arch == "densenet121" else TorchvisionChest)(start, arch)
