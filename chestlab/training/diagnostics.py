"""Inside a network: gradient norms by depth, and units whose activation passes no gradient."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from chestlab.training.augment import to_input
from chestlab.training.inference import EVALUATION_BATCH
from chestlab.training.recipe import Recipe

GRADIENT_BATCHES = 2

SILENT_SLOPE = 0.01  # ReLU's slope is 0 or 1; Mish's is below this for inputs under -6.3


def gradient_norms(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, recipe: Recipe
) -> dict[str, float]:
    """Euclidean norm of the loss's gradient in every convolution wider than one pixel, by depth.

    The mean over the first batches of the images, in training mode and single precision, without
    label smoothing or augmentation.

    Args:
        model: left as it is.
        images: (N, 1, S, S) uint8 on the model's device.
        labels: (N,) or (N, F) float.
        recipe: batch size, and how an image becomes an input.
    """
    twin = copy.deepcopy(model).train()
    layers = {
        name: module
        for name, module in twin.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    }
    sums = dict.fromkeys(layers, 0.0)
    batches = [
        rows
        for rows in torch.arange(len(images)).split(recipe.batch_size)[:GRADIENT_BATCHES]
        if len(rows) > 1
    ]
    for rows in batches:
        twin.zero_grad(set_to_none=True)
        logits = twin(to_input(images[rows.to(images.device)], recipe))
        F.binary_cross_entropy_with_logits(logits, labels[rows.to(images.device)]).backward()
        for name, layer in layers.items():
            gradient = layer.weight.grad
            assert gradient is not None
            sums[name] += float(gradient.norm())
    return {name: total / len(batches) for name, total in sums.items()}


def silent_units(model: nn.Module, images: torch.Tensor, recipe: Recipe) -> dict[str, float]:
    """Share of silent units after every activation layer whose input is an image, by depth.

    A unit is a channel; it is silent when its activation's slope is below `SILENT_SLOPE` in
    magnitude at every position of every image, so that no gradient gets through. For ReLU that is
    a unit whose output is 0 everywhere.

    Args:
        model: left as it is but for its mode, evaluation.
        images: (N, 1, S, S) uint8 on the model's device.
        recipe: how an image becomes an input.
    """
    has_gradient: dict[str, torch.Tensor] = {}

    def watch(name: str, layer: nn.Module):
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            with torch.enable_grad():
                x = inputs[0].detach().float().requires_grad_()
                (slope,) = torch.autograd.grad(layer.forward(x).sum(), x)
            active = (slope.abs() >= SILENT_SLOPE).flatten(2).any(2).any(0)
            has_gradient[name] = has_gradient.get(name, False) | active

        return layer.register_forward_pre_hook(hook)

    hooks = [
        watch(name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("act1", "act2")
    ]
    model.eval()
    try:
        with torch.no_grad():
            for batch in images.split(EVALUATION_BATCH):
                model(to_input(batch, recipe))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: float((~active).float().mean()) for name, active in has_gradient.items()}
