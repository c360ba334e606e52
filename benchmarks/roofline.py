"""How long a training step takes on a graphics card, computed by a roofline model.

The operations of a step are counted on the CPU; on a card each takes the longest of a kernel's
launch, the transport of its inputs and outputs, and its arithmetic, in float32 (Williams et al.,
https://doi.org/10.1145/1498765.1498785).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from networks import Network

SOURCE_SIZE = 28  # pixels of the images before a recipe resizes them

LAUNCH = 20e-6  # seconds of an operation, at least: one to three kernels, started from Python
ATTAINED = 0.5  # share of the data sheet's rates that a kernel is taken to attain

NO_KERNELS = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}


@dataclass(frozen=True)
class Card:
    """A graphics card by its data sheet.

    Attributes:
        bandwidth: of its memory, in bytes per second.
        peak: floating-point operations per second in float32, without tensor cores.
        about: where the two are from.
    """

    bandwidth: float
    peak: float
    about: str

    def seconds(self, operations: Sequence[tuple[int, int]]) -> float:
        """Time of operations, given as (bytes, FLOPs), one after the other."""
        bandwidth, peak = ATTAINED * self.bandwidth, ATTAINED * self.peak
        return sum(max(LAUNCH, n / bandwidth, f / peak) for n, f in operations)


CARDS = {
    "RTX 3050 Laptop": Card(
        192e9,
        4.33e12,
        "4 GB of GDDR6, 128 bits at 12 Gbit/s; the slowest version, of 35 W: 2,048 cores x 2 x "
        "1,058 MHz (that of 80 W: 1,740 MHz)",
    ),
    "T4": Card(320e9, 8.1e12, "16 GB; https://www.nvidia.com/en-us/data-center/tesla-t4/"),
}


class Operations(TorchDispatchMode):
    """Context that records (bytes of inputs and outputs, FLOPs) of every operation but views.

    FLOPs are those of convolutions, matrix products and attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        aliases = [value.alias_info for value in function._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        if not view and function.overloadpacket.__name__ not in NO_KERNELS:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x)]
            flops = count_flops(function.overloadpacket, args, kwargs, result)
            self.costs.append((sum(x.nbytes for x in tensors), flops))
        return result


def count_flops(operation: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    """Floating-point operations, of what PyTorch counts them for.

    PyTorch's own count of a convolution's backward pass leaves out the groups.
    """
    if operation is torch.ops.aten.convolution_backward:
        gradient, weight, wanted = args[0], args[2], args[-1]
        return sum(wanted[:2]) * 2 * gradient.numel() * weight[0].numel()
    count = flop_registry.get(operation)
    return count(*args, **kwargs, out_val=result) if count else 0


def blank(n: int) -> torch.Tensor:
    return torch.zeros((n, 1, SOURCE_SIZE, SOURCE_SIZE), dtype=torch.uint8)


def training_step(known: Network, stage: Recipe, frozen: bool) -> list[tuple[int, int]]:
    """(bytes, FLOPs) of each operation of one training step in float32, with augmentation."""
    n = stage.batch_size * stage.accumulation
    train, val = (blank(n), (torch.arange(n) % 2).float()), (blank(0), torch.zeros(0))
    stage = replace(stage, amp="off")
    trainer = Trainer(lambda: known.build(**known.arguments), stage, train, val, frozen)
    trainer.model.train()
    for module in trainer.frozen_modules:
        module.eval()
    trainer.step(torch.arange(2))  # the first one makes AdamW's averages
    with Operations() as operations:
        trainer.step(torch.arange(n))
    return operations.costs


def compute(known: Network) -> dict[str, Any]:
    """A step's costs on a card in each stage of the network's recipe."""
    recipe = known.recipe
    last = len(recipe.stages) - 1
    steps = [training_step(known, stage, k < last) for k, stage in enumerate(recipe.stages)]
    return {
        "image_size": recipe.image_size or SOURCE_SIZE,
        "operations": [len(step) for step in steps],
        "bytes": [sum(n for n, _ in step) for step in steps],
        "flops": [sum(f for _, f in step) for step in steps],
        "card_ms": {name: [1e3 * card.seconds(s) for s in steps] for name, card in CARDS.items()},
    }
