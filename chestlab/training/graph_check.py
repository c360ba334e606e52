"""Whether a captured training step does what the eager one does, by one step of each.

Both start from one state, with the same images and random numbers. A step changes weights, the
optimiser's averages and running statistics; the error of the replayed step is measured against the
size of that change, so that a step that does nothing, or another one, cannot pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

# Largest error, as a share of the change, that counts as rounding: kernels that add up in no fixed
# order differ in the last bits, and AdamW's division makes those of small gradients larger.
BOUNDS = {None: 0.01, torch.bfloat16: 0.05, torch.float16: 0.05}

RESOLUTION = 1e-6  # of float32 numbers, as a share of their size: a smaller change is not seen


class StepState:
    """What a step reads and changes, copied into the host's memory.

    Args:
        model: that is trained; its weights and buffers stay where they are.
        optimizer: with the states that its first step makes.
        scaler: of the loss, enabled or not.
        generators: that the step draws from.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._of = model, optimizer, scaler, generators
        self.tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._live()}
        self.scale: Mapping[str, Any] = scaler.state_dict()
        self.random = [generator.get_state() for generator in generators]

    def _live(self) -> Iterator[tuple[tuple[str, int], torch.Tensor]]:
        """The tensors in use, by kind and number."""
        model, optimizer, _, _ = self._of
        for number, tensor in enumerate(model.parameters()):
            yield ("weights", number), tensor
        for number, tensor in enumerate(model.buffers()):
            yield ("running statistics", number), tensor
        for number, state in enumerate(optimizer.state.values()):
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    yield (name, number), value

    def restore(self) -> None:
        """Give the step its state back, at the addresses that a graph knows."""
        _, _, scaler, generators = self._of
        with torch.no_grad():
            for name, tensor in self._live():
                tensor.copy_(self.tensors[name])
        scaler.load_state_dict(dict(self.scale))
        for generator, state in zip(generators, self.random, strict=True):
            generator.set_state(state)


def largest_error(
    before: StepState,
    eager: tuple[StepState, torch.Tensor],
    replayed: tuple[StepState, torch.Tensor],
) -> tuple[str, float]:
    """The kind of numbers in which two steps differ most, and by which share of their change.

    Args:
        before: the state that both started from.
        eager, replayed: state and loss after each of the steps.

    Returns:
        ``loss``, ``weights`` or another kind, and its error; NaN where a number is none, infinity
        where counts of steps, the loss's scale or the random numbers drawn differ.
    """
    errors = {"loss": _share(replayed[1] - eager[1], eager[1], eager[1])}
    for kind in sorted({name[0] for name in before.tensors}):
        names = [name for name in before.tensors if name[0] == kind]
        pairs = [(replayed[0].tensors[name], eager[0].tensors[name]) for name in names]
        whole = [not one.is_floating_point() or kind == "step" for one, _ in pairs]
        if any(exact and not torch.equal(*pair) for exact, pair in zip(whole, pairs, strict=True)):
            errors[kind] = float("inf")
            continue
        measured = [i for i, exact in enumerate(whole) if not exact]
        errors[kind] = _share(
            _flat([pairs[i][0] - pairs[i][1] for i in measured]),
            _flat([pairs[i][1] - before.tensors[names[i]] for i in measured]),
            _flat([pairs[i][1] for i in measured]),
        )
    if dict(replayed[0].scale) != dict(eager[0].scale):
        errors["scale of the loss"] = float("inf")
    drawn = zip(replayed[0].random, eager[0].random, strict=True)
    if not all(torch.equal(*states) for states in drawn):
        errors["random numbers"] = float("inf")
    not_numbers = [kind for kind, error in errors.items() if error != error]
    worst = not_numbers[0] if not_numbers else max(errors, key=lambda kind: errors[kind])
    return worst, errors[worst]


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in tensors] or [torch.zeros(0)])


def _share(error: torch.Tensor, change: torch.Tensor, size: torch.Tensor) -> float:
    """Norm of an error over that of a change, which has at least the numbers' resolution."""
    norms = [
        float(torch.linalg.vector_norm(x.double() if x.dim() == 0 else x, dtype=torch.float64))
        for x in (error, change, size)
    ]
    return norms[0] / (norms[1] + RESOLUTION * norms[2]) if norms[0] else 0.0
