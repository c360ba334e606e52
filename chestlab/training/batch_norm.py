"""Statistics of batch norm for the weights that are evaluated.

While a network is trained, batch norm normalises with the mean and variance of the batch; in
evaluation with running averages of them. With momentum m these keep a share 1 - m per step: at
torchvision's 0.01 (MobileNetV3, EfficientNet) they lag hundreds of steps behind the weights, more
than a training on a few hundred images has; averaged weights lag as well. Statistics estimated
anew on training images are the weights' own (Wu and Johnson, Rethinking "Batch" in BatchNorm,
https://arxiv.org/abs/2105.07576; `torch.optim.swa_utils.update_bn` does the same with dropout on).

Frozen statistics are those that pretrained weights bring. Batch norm is then the same scale and
shift of each channel in training and in evaluation; its weight and bias are trained all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from chestlab.files.errors import InputError
from chestlab.training.augment import to_input
from chestlab.training.device import autocast, memory_format
from chestlab.training.recipe import Recipe

MOST_IMAGES = 2048  # more do not change the figures, and would take time on large data

FORGOTTEN = 0.95  # share of the statistics that an epoch replaces under ``batch_norm="epoch"``


def batch_norms(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> dict[str, _BatchNorm]:
    """The batch norms with running statistics by name, without those in frozen modules."""
    resting = {layer for module in frozen for layer in module.modules()}
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer not in resting
    }


def frozen_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms whose statistics pretrained weights have brought.

    Those of a classifier that starts from random numbers have none yet (mean 0 and variance 1).

    Raises:
        InputError: there are batch norms, but none such.
    """
    norms = batch_norms(model).values()
    layers = [
        layer
        for layer in norms
        if layer.running_mean is not None
        and layer.running_var is not None
        and not (layer.running_mean.eq(0).all() and layer.running_var.eq(1).all())
    ]
    if norms and not layers:
        raise InputError(
            "--batch-norm frozen: the weights that this network starts from bring no batch-norm "
            "statistics; allowed are running, epoch or estimated"
        )
    return layers


def forget_within_an_epoch(layers: Iterable[_BatchNorm], steps: int) -> None:
    """Raise momenta so that an epoch of ``steps`` replaces `FORGOTTEN` of the statistics."""
    least = 1 - (1 - FORGOTTEN) ** (1 / steps)
    for layer in layers:
        layer.momentum = max(layer.momentum or 0.0, least)


@torch.no_grad()
def estimate_statistics(
    model: nn.Module,
    layers: Iterable[nn.Module],
    images: torch.Tensor,
    recipe: Recipe,
    amp: torch.dtype | None = None,
) -> None:
    """Give batch norms the mean statistics of batches of training images; nothing else changes.

    Images are augmented as in training, with the same random numbers every time: without, networks
    trained with warps were cross-validated to be worse. Dropout and stochastic depth are off.

    Args:
        model: left in evaluation mode.
        layers: batch norms of the model.
        images: (N, 1, S, S) uint8 on the model's device; at most `MOST_IMAGES` are used, the same
            ones every time.
        recipe: says how an image becomes an input, and how many are in a batch.
        amp: mixed-precision type, or None.
    """
    noise = torch.Generator(images.device).manual_seed(0)
    norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
    if not norms:
        return
    model.eval()
    generator = torch.Generator().manual_seed(0)  # files may be sorted by class
    rows = torch.randperm(len(images), generator=generator)[:MOST_IMAGES].to(images.device)
    momenta = [layer.momentum for layer in norms]
    batches = max(1, len(rows) // recipe.batch_size)
    try:
        for layer in norms:
            layer.train()
        for number, part in enumerate(rows.tensor_split(batches), 1):
            for layer in norms:
                layer.momentum = 1 / number  # the running mean of the batches so far
            x = to_input(images[part], recipe, noise)
            with autocast(images.device, amp):
                model(x.contiguous(memory_format=memory_format(x.device)))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
