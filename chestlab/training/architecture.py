"""A network as a short table: its top-level blocks with output shapes, weights and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import nn

from chestlab.training.layers import parameter_count

FEWEST_ROWS = 5  # of fewer blocks the largest is shown by its parts

MOST_ROWS = 20

DOMINANT = 0.9  # share of all parameters from which a block is shown by its parts


def describe_blocks(model: nn.Module, x: torch.Tensor) -> tuple[list[dict[str, Any]], int]:
    """The top-level blocks of a network, and its arithmetic, by one forward pass.

    Args:
        model: in evaluation mode.
        x: (1, 1, H, W) on the model's device.

    Returns:
        A row per block, in the order of the pass: ``name``, ``content`` in words, ``output`` (the
        shape without the image's number), ``parameters`` and ``multiply_accumulates``. Parameters
        outside all blocks, such as a position embedding, have a row without name, so that the
        column adds up. Then the multiply-accumulates of the whole network, half of PyTorch's flop
        count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    blocks = _blocks(model)
    outputs: dict[str, list[int]] = {}
    hooks = [
        module.register_forward_hook(partial(_keep_shape, outputs, name))
        for name, module in blocks.items()
    ]
    try:
        with FlopCounterMode(display=False) as counter:
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    flops, root = counter.get_flop_counts(), type(model).__name__
    rows = [
        {
            "name": name,
            "content": describe(blocks[name]),
            "output": shape,
            "parameters": parameter_count(blocks[name]),
            "multiply_accumulates": sum(flops.get(f"{root}.{name}", {}).values()) // 2,
        }
        for name, shape in outputs.items()
    ]
    total = counter.get_total_flops() // 2
    rest = {
        "parameters": parameter_count(model) - sum(row["parameters"] for row in rows),
        "multiply_accumulates": total - sum(row["multiply_accumulates"] for row in rows),
    }
    if any(rest.values()):
        rows.append({"name": "", "content": "", "output": [], **rest})
    return rows, total


def _keep_shape(
    outputs: dict[str, list[int]], name: str, _: nn.Module, __: Any, output: Any
) -> None:
    if isinstance(output, torch.Tensor):
        outputs[name] = list(output.shape[1:])


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks by name: the network's children, or where that is coarse their children."""
    blocks = _children(model)
    while blocks:
        name = max(blocks, key=lambda name: parameter_count(blocks[name]))
        parts = {f"{name}.{part}": module for part, module in _children(blocks[name]).items()}
        dominant = parameter_count(blocks[name]) > DOMINANT * parameter_count(model)
        coarse = dominant or len(blocks) < FEWEST_ROWS
        if not coarse or len(parts) < 2 or len(blocks) - 1 + len(parts) > MOST_ROWS:
            break
        blocks = {
            key: module
            for block, of_block in blocks.items()
            for key, module in (parts if block == name else {block: of_block}).items()
        }
    return blocks


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """By name, without what does nothing."""
    children = module.named_children()
    return {name: child for name, child in children if not isinstance(child, nn.Identity)}


def describe(module: nn.Module) -> str:
    """What a module consists of, such as ``Conv2d 3x3 / 2, BatchNorm2d, 2 GELU``."""
    if not isinstance(module, nn.Sequential):
        return _describe_layer(module)
    words = []
    for layer, same in groupby(_flat(module), _describe_layer):
        number = len(list(same))
        words.append(layer if number == 1 else f"{number} {layer}")
    return ", ".join(words)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of sequences within sequences."""
    if not isinstance(module, nn.Sequential):
        yield module
        return
    for part in module:
        yield from _flat(part)


def _describe_layer(layer: nn.Module) -> str:
    words = type(layer).__name__
    if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
        words += f" {kernel[0]}x{kernel[1]}"
        words += f" / {stride[0]}" if max(stride) > 1 else ""
    return words


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
