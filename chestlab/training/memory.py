"""How much of a graphics card's memory a training needs, before it starts: on pretended tensors.

Two steps and an evaluation are run on tensors that have a shape and no numbers, and the bytes that
are alive at once are added up. What PyTorch's allocator, cuDNN's workspaces and CUDA's own context
take besides is `OVERHEAD`. The steps pretend to be on a CPU: automatic differentiation on pretended
CUDA tensors needs CUDA.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chestlab.training.augment import to_input
from chestlab.training.device import autocast, memory_format
from chestlab.training.inference import batch_on_cuda
from chestlab.training.optimizer import make_optimizer
from chestlab.training.recipe import Recipe

ROUNDING = 512  # bytes, to a multiple of which the CUDA allocator rounds

OVERHEAD = 700_000_000  # bytes: an assumption, not measured


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors in a training on CUDA.

    Attributes:
        kept: between two steps: images, weights, AdamW's averages, and copies of the weights.
        step: at most within a step, ``kept`` included.
        evaluation: at most while images are evaluated, likewise.
    """

    kept: int
    step: int
    evaluation: int

    @property
    def without_graph(self) -> int:
        """Of the card, if every step is run eagerly."""
        return max(self.step, self.evaluation) + OVERHEAD

    @property
    def with_graph(self) -> int:
        """Of the card with a CUDA graph, which keeps a step's memory for itself."""
        return self.without_graph + self.step - self.kept


def training_need(
    build: Callable[[], nn.Module],
    recipe: Recipe,
    shape: tuple[int, int],
    amp: torch.dtype | None,
    findings: int = 0,
) -> Memory:
    """The memory of a training on CUDA; takes seconds, and no memory to speak of.

    Args:
        build: makes the network.
        recipe: of the stage in which everything is trained.
        shape: number of images on the card, and their side in pixels.
        amp: mixed-precision type.
        findings: number of labels of an image, 0 for the two classes.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with (
        torch.random.fork_rng(devices=[]),
        FakeTensorMode(allow_non_fake_inputs=True),
        _Alive() as alive,
    ):
        images = torch.zeros(shape[0], 1, shape[1], shape[1], dtype=torch.uint8)
        labels = torch.zeros((recipe.batch_size, findings) if findings else recipe.batch_size)
        model = build().train()
        weights = list(model.state_dict().values())
        copies = [[w.clone() for w in weights] for _ in range(2 if recipe.ema else 1)]  # best, EMA
        optimizer = make_optimizer(model, recipe)
        generator = torch.Generator()

        def forward(rows: torch.Tensor) -> torch.Tensor:
            x = to_input(images[rows], recipe, generator if model.training else None)
            with autocast(images.device, amp):
                return model(x.contiguous(memory_format=memory_format(x.device))).float()

        def step() -> None:
            rows = torch.zeros(recipe.batch_size, dtype=torch.int64)
            F.binary_cross_entropy_with_logits(forward(rows), labels).backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()  # makes AdamW's averages
        kept = alive.bytes
        within_step = alive.peak_of(step)
        model.eval()
        size = batch_on_cuda(recipe, shape[1])
        with torch.inference_mode():
            evaluation = alive.peak_of(lambda: forward(torch.zeros(size, dtype=torch.int64)))
        del copies
    return Memory(kept, within_step, evaluation)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still in use."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def peak_of(self, work: Callable[[], Any]) -> int:
        """The most bytes in use while ``work`` is done."""
        self.peak = self.bytes
        work()
        return self.peak

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        results = operation(*arguments, **(named or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = math.ceil(storage.nbytes() / ROUNDING) * ROUNDING
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.bytes -= size
