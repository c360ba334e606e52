"""Costs of a trained network: arithmetic, memory and time per image."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.training.architecture import describe_blocks
from chestlab.training.augment import to_input
from chestlab.training.device import autocast, memory_errors, memory_format
from chestlab.training.recipe import Recipe

BATCHES = (1, 64)  # images at once: one patient waiting, and a folder full of them

SLOW_SECONDS = 1.0  # a batch that takes longer is timed fewer times

MEMORY_BATCHES = (2, 4)  # from what these keep, that of a larger batch follows


def measure(
    model: nn.Module, images: torch.Tensor, recipe: Recipe, amp: torch.dtype | None
) -> dict[str, Any]:
    """Costs of ``model`` on the device it is on; its weights are left as they are.

    Args:
        model: in any mode; in evaluation mode afterwards.
        images: (N, 1, S, S) uint8 on the same device, at least one; repeated to fill a batch.
        recipe: says how an image becomes an input, and how large a training batch is.
        amp: mixed-precision type of the training, or None.

    Returns:
        ``input_size`` in pixels; ``multiply_accumulates`` of one image through convolutions,
        linear layers and attention; ``blocks``, of `architecture.describe_blocks`;
        ``inference_batch1`` and ``inference_batch64``, milliseconds per image with quartiles, from
        uint8 image to logit in float32, without test-time augmentation; ``peak_memory_bytes`` of a
        training step (see `training_memory`). What does not fit into the device's memory is None.
    """
    model.eval()
    with torch.enable_grad():  # without it PyTorch fuses attention, which the counter cannot see
        blocks, arithmetic = describe_blocks(model, to_input(images[:1], recipe))
    return {
        "input_size": recipe.image_size or images.shape[-1],
        "multiply_accumulates": arithmetic,
        "blocks": blocks,
        **{
            f"inference_batch{n}": _where_it_fits(_inference, model, images, recipe, n)
            for n in BATCHES
        },
        "peak_memory_bytes": _where_it_fits(training_memory, model, images, recipe, amp),
    }


def _where_it_fits(measurement: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a measurement, None where the device's memory does not suffice for it."""
    try:
        with memory_errors():
            return measurement(*arguments)
    except torch.OutOfMemoryError:
        return None


def _inference(model: nn.Module, images: torch.Tensor, recipe: Recipe, n: int) -> dict[str, float]:
    batch = images[torch.arange(n, device=images.device) % len(images)]

    def ask() -> None:
        with torch.inference_mode():
            x = to_input(batch, recipe).contiguous(memory_format=memory_format(batch.device))
            model(x).float().cpu()  # a copy waits for the device

    return milliseconds_per_image(ask, n, repeats=21 if n == 1 else 6)


def milliseconds_per_image(ask: Callable[[], Any], n: int, repeats: int = 6) -> dict[str, float]:
    """Median and quartiles of the time that ``ask`` takes for each of its ``n`` images.

    The first of the repeats warms up and does not count.
    """
    seconds: list[float] = []
    while len(seconds) < repeats:
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > SLOW_SECONDS:
            repeats = min(repeats, 4)
    low, median, high = np.percentile(seconds[1:], [25, 50, 75]) / n * 1000  # one warms up
    return {"median_ms": float(median), "low_ms": float(low), "high_ms": float(high)}


def training_memory(
    model: nn.Module, images: torch.Tensor, recipe: Recipe, amp: torch.dtype | None
) -> int | None:
    """Largest number of bytes that tensors take in a training step with AdamW.

    On CUDA what the allocator has held at most since the process began, the whole training
    included. On a CPU the sum of parameters, gradients, AdamW's two averages, buffers, and what
    the forward pass of one batch keeps for the backward pass, without short-lived workspaces.
    None elsewhere.
    """
    if images.device.type == "cuda":
        return torch.cuda.max_memory_allocated(images.device)
    if images.device.type != "cpu":
        return None
    twin = copy.deepcopy(model).train()
    few, more = (_kept_bytes(twin, images, recipe, amp, n) for n in MEMORY_BATCHES)
    per_image = (more - few) / (MEMORY_BATCHES[1] - MEMORY_BATCHES[0])
    kept = few + round(per_image * (recipe.batch_size - MEMORY_BATCHES[0]))
    trained = sum(p.nbytes for p in model.parameters())
    return 4 * trained + sum(b.nbytes for b in model.buffers()) + kept


def _kept_bytes(
    model: nn.Module, images: torch.Tensor, recipe: Recipe, amp: torch.dtype | None, n: int
) -> int:
    """What the forward pass of ``n`` images keeps for the backward pass, parameters aside.

    The weights' copies in lower precision are part of it, as many for one image as for a batch.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = images[torch.arange(n) % len(images)]
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.enable_grad(),
        autocast(images.device, amp),
    ):
        x = to_input(batch, recipe).contiguous(memory_format=memory_format(batch.device))
        model(x).float().sum()
    return sum(kept.values())
