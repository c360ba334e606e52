"""Costs: arithmetic that can be counted by hand, and weights that stay as they were."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from chestlab.training import costs
from chestlab.training.architecture import describe_blocks
from chestlab.training.recipe import Recipe
from model import EfficientChestNet
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest

RECIPE = Recipe(name="tiny", batch_size=4)


def images(n: int = 3, size: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=generator)


class Small(nn.Module):
    """A depthwise-like convolution and a linear layer whose arithmetic is easy to write down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(6 * 14 * 14, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.grouped(self.conv(x)))
        return self.linear(self.dropout(x).flatten(1)).squeeze(1)


def test_multiply_accumulates_are_those_written_down_by_hand() -> None:
    by_hand = 28 * 28 * 6 * 9 + 14 * 14 * 6 * 2 * 9 + 6 * 14 * 14
    assert describe_blocks(Small(), torch.zeros(1, 1, 28, 28))[1] == by_hand


@pytest.mark.parametrize("build", [EfficientChestNet, ResidualChestNet, MobileNetV3Chest])
def test_counter_agrees_with_a_hook_over_the_layers(build: type[nn.Module]) -> None:
    model = build().eval()
    counted = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            counted += output.numel() * layer.in_channels // layer.groups * kernel
        elif isinstance(layer, nn.Linear):
            counted += output.numel() * layer.in_features

    for layer in model.modules():
        layer.register_forward_hook(count)
    assert describe_blocks(model, torch.zeros(1, 1, 32, 32))[1] == counted


def test_arithmetic_is_counted_at_the_size_of_the_input(monkeypatch) -> None:
    monkeypatch.setattr(costs, "BATCHES", (1,))
    model = ResidualChestNet()
    small = costs.measure(model, images(), RECIPE, None)
    large = costs.measure(model, images(), Recipe(name="tiny", batch_size=4, image_size=56), None)
    assert (small["input_size"], large["input_size"]) == (28, 56)
    assert 3.9 < large["multiply_accumulates"] / small["multiply_accumulates"] < 4.1


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_weights_statistics_and_random_numbers_stay(amp: torch.dtype | None) -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    figures = costs.measure(model, images(), RECIPE, amp)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    json.dumps(figures)
    for batch in ("inference_batch1", "inference_batch64"):
        times = figures[batch]
        assert 0 < times["low_ms"] <= times["median_ms"] <= times["high_ms"]
        assert all(math.isfinite(value) for value in times.values())


def test_training_memory_is_what_has_to_be_kept() -> None:
    model = Small()
    weights = sum(4 * p.numel() for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    per_image = 4 * (
        28 * 28  # input
        + 6 * 28 * 28  # input of the grouped convolution
        + 6 * 14 * 14  # of the batch norm
        + 6 * 14 * 14  # of the linear layer
    )
    mask = 6 * 14 * 14  # of the dropout, bytes
    statistics = 2 * 6 * 4  # of the batch norm
    most = 4 * weights + buffers + 4 * (per_image + 4 * mask) + statistics + 1000
    least = 4 * weights + buffers + 4 * per_image
    assert least <= costs.training_memory(model, images(), RECIPE, None) <= most


def test_memory_grows_with_the_batch_and_repeats() -> None:
    model = ResidualChestNet()
    small = costs.training_memory(model, images(), RECIPE, None)
    assert small == costs.training_memory(model, images(), RECIPE, None)
    large = costs.training_memory(model, images(), Recipe(name="tiny", batch_size=64), None)
    fixed = 4 * sum(p.nbytes for p in model.parameters())
    assert 14 < (large - fixed) / (small - fixed) < 18


def test_copies_of_the_weights_in_bf16_do_not_grow_with_the_batch() -> None:
    model = Small()
    few, many, more = (
        costs.training_memory(model, images(), Recipe(name="tiny", batch_size=n), torch.bfloat16)
        for n in (2, 20, 200)
    )
    assert (more - many) / 180 == (many - few) / 18 > 0
    weights = sum(p.numel() for p in model.parameters())
    assert few - 2 * (many - few) / 18 >= 4 * 4 * weights  # what is kept of no image at all


def test_what_does_not_fit_is_left_open_and_ends_no_run() -> None:
    class Hungry(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training or len(x) > 8:
                raise torch.OutOfMemoryError("out of memory: tried to allocate 3.00 GiB")
            return super().forward(x)

    figures = costs.measure(Hungry(), images(), RECIPE, None)
    assert figures["inference_batch1"]["median_ms"] > 0
    assert figures["inference_batch64"] is None
    assert figures["peak_memory_bytes"] is None
