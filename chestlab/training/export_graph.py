"""The whole path from pictures to probabilities as one PyTorch module, to be exported.

What `predict.py` does with Pillow and NumPy around a network is done by tensor operations here, so
that a file in ONNX needs nothing but the pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from chestlab.training.augment import random_warps, to_input
from chestlab.training.averages import LEAST_PROBABILITY, Trained, TrainedAverage
from chestlab.training.gradcam import last_feature_map
from chestlab.training.inference import TrainedModel

# Pillow's bicubic filter: its a, its half width in source pixels, and the bits behind the point of
# its integer weights. Source: https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Resample.c
BICUBIC_A = -0.5
BICUBIC_SUPPORT = 2.0
FRACTION = 2.0**22


class PillowSquare(nn.Module):
    """The middle square of pictures, resized as Pillow's bicubic filter does it, to the bit.

    Two matrix products, first over columns and then over rows, each rounded to 8 bits. All numbers
    in them are integers below 2^53, which float64 holds exactly: the order of the sums, and with
    it the machine, does not matter.

    Args:
        size: side in pixels of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) uint8 to (N, 1, size, size) uint8, H and W being anything."""
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in pictures.shape[-2:])
        height, width = rows[-1] + 1, columns[-1] + 1  # as tensors, which the graph computes
        side = torch.minimum(height, width)
        across = self._weights(columns - torch.floor((width - side) / 2), side)
        down = self._weights(rows - torch.floor((height - side) / 2), side)
        x = _resampled(pictures.to(torch.float64), across)
        return _resampled(x.mT, down).mT.to(torch.uint8)

    def _weights(self, position: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Weights (size, P) of P pixels at ``position`` (P,) within a square of ``side``, 0-d.

        Pixels outside the square, whose positions are below 0 or from ``side`` on, weigh 0.
        """
        scale = side / self.size
        stretch = scale.clamp(min=1.0)  # the filter grows where the picture is reduced
        centre = ((torch.arange(self.size, dtype=torch.float64) + 0.5) * scale)[:, None]
        first = torch.floor(centre - BICUBIC_SUPPORT * stretch + 0.5).clamp(min=0.0)
        end = torch.minimum(torch.floor(centre + BICUBIC_SUPPORT * stretch + 0.5), side)
        distance = ((position - centre + 0.5) * (1 / stretch)).abs()
        a = BICUBIC_A
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * a
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
        weights = torch.where((position >= first) & (position < end), weights, 0.0)
        weights = weights * (1 / weights.sum(1, keepdim=True)) * FRACTION
        return torch.sign(weights) * torch.floor(weights.abs() + 0.5)


def _resampled(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Rows (..., P) of grey levels, by weights (S, P) times 2^22, to rows (..., S) in 0..255.

    Two dimensions make it an operator `Gemm`, which transposes. Of `MatMul` after `Transpose`
    onnxruntime up to 1.23 makes an operator of its own that it does not have for float64.
    """
    sums = F.linear(x.flatten(0, -2), weights).unflatten(0, x.shape[:-1])
    return torch.floor((sums + FRACTION / 2) / FRACTION).clamp(0.0, 255.0)


class TrainedGraph(nn.Module):
    """`TrainedModel.probabilities` in tensor operations, for images of its source size.

    All views of test-time augmentation go through the network in one batch, so that an exported
    graph holds the network once.

    Args:
        trained: on the CPU.
        with_map: compute a class activation map, too.

    Raises:
        InputError: a map is wanted and the network has no feature map.
    """

    def __init__(self, trained: TrainedModel, with_map: bool = False) -> None:
        super().__init__()
        self.network, self.recipe, self.tta = trained.model, trained.recipe, trained.tta
        self.temperature = trained.temperature
        self.warps = random_warps(trained.recipe, trained.device) if self.tta == "warps" else []
        self.features, self.channels_last = "", False
        if with_map:
            example = torch.zeros((1, 1, trained.size, trained.size), dtype=torch.uint8)
            x = to_input(example, trained.recipe)
            self.features, self.channels_last = last_feature_map(trained.model, x)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N, 1, S, S) uint8 to float64 probabilities (N,) of pneumothorax and maps (N, h, w)."""
        x = to_input(images, self.recipe)
        views = [x] if self.tta == "none" else [x, x.flip(-1)]
        views += [to_input(images, self.recipe, warp=warp) for warp in self.warps]
        maps = None
        if self.features:
            logits, fields = self._with_fields(torch.cat(views))
            maps = fields.reshape(len(views), -1, *fields.shape[1:])
            maps = maps[0] if self.tta == "none" else (maps[0] + maps[1].flip(-1)) / 2
        else:
            logits = self.network(torch.cat(views))
        mean = logits.reshape(len(views), -1).mean(0)
        return torch.sigmoid(mean.double() / self.temperature), maps

    def _with_fields(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (M,) of inputs (M, 1, H, W) and class activation maps (M, h, w).

        A field's value is the logit that the layers after the last feature map give to that field
        alone: above 0 it speaks for pneumothorax, below 0 for cardiomegaly. Where these layers are
        an average over fields and a linear one, it is the class activation map of Zhou et al.
        (https://arxiv.org/abs/1512.04150), and the map's mean is the logit.
        """
        taken: list[torch.Tensor] = []
        with self._output(lambda features: taken.append(features)):
            logits = self.network(x)
        features = taken[0] if self.channels_last else taken[0].permute(0, 2, 3, 1)
        each = features.flatten(0, 2)[:, None, None]  # (M h w, 1, 1, C)
        if not self.channels_last:
            each = each.permute(0, 3, 1, 2)
        # The layers before are given any input: what they return is replaced, and the exporter
        # leaves out what nothing uses.
        with self._output(lambda features: each):
            fields = self.network(x)
        return logits, fields.unflatten(0, features.shape[:3])

    @contextlib.contextmanager
    def _output(self, use: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
        """Context in which ``use`` gets the last feature map and may return another one."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            return use(output)

        handle = self.network.get_submodule(self.features).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class AverageGraph(nn.Module):
    """`TrainedAverage.probabilities` in tensor operations; the map is the mean of the members'.

    Args:
        average: of networks on the CPU.
        with_map: compute a class activation map, too.

    Raises:
        InputError: a map is wanted, and the networks have no feature maps, or of several sizes.
    """

    def __init__(self, average: TrainedAverage, with_map: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(_graph_of(member, with_map) for member in average.members)
        self.of_logits = average.of_logits

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N, 1, S, S) uint8 to float64 probabilities (N,) of pneumothorax and maps (N, h, w)."""
        each, maps = zip(*(member(images) for member in self.members), strict=True)
        probabilities = torch.stack(each)
        if self.of_logits:
            clipped = probabilities.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
            mean = torch.sigmoid((torch.log(clipped) - torch.log1p(-clipped)).mean(0))
        else:
            mean = probabilities.mean(0)
        return mean, None if maps[0] is None else torch.stack(maps).mean(0)


def _graph_of(trained: Trained, with_map: bool) -> nn.Module:
    if isinstance(trained, TrainedAverage):
        return AverageGraph(trained, with_map)
    return TrainedGraph(trained, with_map)


class WholePath(nn.Module):
    """From pictures (N, 1, H, W) uint8 of any size to probabilities (N,), as `predict.py`.

    Args:
        trained: a network or an average of networks, on the CPU.
        with_map: return a class activation map (N, h, w) as well, see `TrainedGraph`.

    Raises:
        InputError: a map is wanted and the network has no feature map.
    """

    def __init__(self, trained: Trained, with_map: bool = False) -> None:
        super().__init__()
        self.square = PillowSquare(trained.size)
        self.trained = _graph_of(trained, with_map)
        self.eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        probabilities, maps = self.trained(self.square(pictures))
        return probabilities.float() if maps is None else (probabilities.float(), maps)
