"""A network and its layers: parameters, freezing, stochastic depth, input size, bf16."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch
from torch import nn

from chestlab.files.errors import InputError
from chestlab.training.device import memory_format
from chestlab.training.recipe import Recipe

Network = TypeVar("Network", bound=nn.Module)


def on_device(model: Network, device: torch.device) -> Network:
    """Move a network to a device, its weights in that one's layout; returns the same object."""
    # PyTorch's annotations of `to` lack this form
    return model.to(device, memory_format=memory_format(device))  # pyright: ignore[reportCallIssue]


def parameter_count(model: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(p.numel() for p in model.parameters())


def layers_with_weights(model: nn.Module) -> list[nn.Module]:
    """The modules that own parameters themselves, in the order of their definition."""
    return [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]


def freeze_first(model: nn.Module, share: float) -> list[nn.Module]:
    """Stop training the first ``share`` (0..1) of the backbone's layers.

    A layer's own parameters count, not those of layers within it: a vision transformer as a whole
    owns the class token and is the first of its layers.

    Returns:
        The modules with no parameter left to train. Their batch norms have to stay in evaluation
        mode, too, see `trainer.Trainer`.
    """
    layers = layers_with_weights(model.get_submodule("backbone"))
    frozen = layers[: round(share * len(layers))]
    for layer in frozen:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return [layer for layer in frozen if not any(p.requires_grad for p in layer.parameters())]


def set_drop_paths(model: nn.Module, last: float) -> None:
    """Give every residual block stochastic depth, with a probability that rises with its depth.

    Huang et al., https://arxiv.org/abs/1603.09382: the probability of leaving out a block's branch
    rises linearly from the input to ``last`` at the last block. It is drawn for each image, and
    branches that are kept are scaled up. The layer replaces a block's module ``drop_path``.

    Args:
        model: changed in place; its parameters and their names stay the same.
        last: probability at the last block, 0..1.

    Raises:
        InputError: the network has no such blocks.
    """
    from torchvision.ops import StochasticDepth

    blocks = [module for module in model.modules() if hasattr(module, "drop_path")]
    if not blocks:
        raise InputError("--drop-path: this network has no residual branches to leave out")
    for number, block in enumerate(blocks, 1):
        layer = StochasticDepth(last * number / len(blocks), "row")
        block.drop_path = layer.train(block.training)


def check_input(model: nn.Module, recipe: Recipe, size: int) -> None:
    """Refuse an input that the network cannot take.

    That is one smaller than its ``smallest_input``, if it has one, or one that its method
    ``check_side`` refuses, where no number says which sizes it takes.

    Raises:
        InputError: it cannot; ``size`` is that of the source's images.
    """
    side, smallest = recipe.image_size or size, getattr(model, "smallest_input", 1)
    if side < smallest:
        raise InputError(
            f"--image-size: this network needs {smallest} pixels or more, these are {side}"
        )
    check_side = getattr(model, "check_side", None)
    if check_side is not None:
        check_side(side)


def without_slow_bf16(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe for a network, with bf16 on a CPU switched off where it is slower.

    That is in networks with depthwise or other grouped convolutions, see `Recipe.cpu_bf16`.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if any(module.groups > 1 for module in convolutions):
        return dataclasses.replace(recipe, cpu_bf16=False)
    return recipe
